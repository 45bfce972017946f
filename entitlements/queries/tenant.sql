-- A tenant's billing anchor.
SELECT anchor_day FROM tenants WHERE tenant_id = %(tenant)s
