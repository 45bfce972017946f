-- Which of these tenants and usage types the catalog knows.
SELECT true AS is_tenant, tenant_id AS name FROM tenants WHERE tenant_id = ANY(%(tenants)s::text[])
UNION ALL
SELECT false, usage_type FROM usage_types WHERE usage_type = ANY(%(types)s::text[])
