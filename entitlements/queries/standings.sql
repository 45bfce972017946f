-- How each asked (tenant, usage type) or (tenant, feature) stands: one row each, in the order asked, of one moment.
-- tenants, types, features: parallel arrays; where the type is NULL, the feature alone is asked for.
-- day_*, month_*: the running day and month. billing_starts[a], billing_ends[a]: the running billing period of anchor day a.
-- Every table is read by its primary key; the counters by one range of it, at most a period's days. What is held is read in
-- the same statement as the counters, so that a settled quantity is seen in one of them, never in neither.
SELECT t.tenant_id IS NOT NULL                AS tenant_known,
       t.plan_id IS NOT NULL                  AS has_plan,
       coalesce(t.status = 'active', false)   AS active,
       f.enabled                              AS feature_enabled,
       l.usage_type IS NOT NULL               AS in_plan,
       trunc(l.quantity * 1000000)::text      AS limit_micros,
       l.hard                                 AS hard,
       trunc(counted.quantity * 1000000)::text AS used_micros,
       period.ends::text                      AS resets_on,
       trunc(reserved.quantity * 1000000)::text AS reserved_micros
  FROM unnest(%(tenants)s::text[], %(types)s::text[], %(features)s::text[])
       WITH ORDINALITY AS asked (tenant_id, usage_type, feature, place)
  LEFT JOIN LATERAL (
       -- OFFSET 0 keeps the planner from hashing all tenants for a full batch.
       SELECT tenant_id, plan_id, status, anchor_day FROM tenants WHERE tenants.tenant_id = asked.tenant_id OFFSET 0
       ) t ON true
  LEFT JOIN usage_types u ON u.usage_type = asked.usage_type
  LEFT JOIN plan_features f ON f.plan_id = t.plan_id AND f.feature = coalesce(asked.feature, u.feature)
  LEFT JOIN plan_limits l ON l.plan_id = t.plan_id AND l.usage_type = asked.usage_type
  LEFT JOIN LATERAL (
       SELECT CASE l.period WHEN 'day' THEN %(day_start)s::date
                            WHEN 'month' THEN %(month_start)s::date
                            WHEN 'billing_period' THEN (%(billing_starts)s::date[])[t.anchor_day] END AS starts,
              CASE l.period WHEN 'day' THEN %(day_end)s::date
                            WHEN 'month' THEN %(month_end)s::date
                            WHEN 'billing_period' THEN (%(billing_ends)s::date[])[t.anchor_day] END AS ends
       ) period ON true
  LEFT JOIN LATERAL (
       SELECT CASE WHEN l.period = 'lifetime'
                   THEN (SELECT c.quantity FROM usage_totals c
                          WHERE c.tenant_id = asked.tenant_id AND c.usage_type = asked.usage_type)
                   ELSE (SELECT sum(c.quantity) FROM usage_counters c
                          WHERE c.tenant_id = asked.tenant_id AND c.usage_type = asked.usage_type
                            AND c.day >= period.starts AND c.day < period.ends)
              END AS quantity
       ) counted ON true
  LEFT JOIN LATERAL (
       SELECT sum(h.quantity) AS quantity FROM held h
        WHERE h.tenant_id = asked.tenant_id AND h.usage_type = asked.usage_type
          AND (h.day IS NULL OR l.period = 'lifetime' OR (h.day >= period.starts AND h.day < period.ends))
       ) reserved ON true
 ORDER BY asked.place
