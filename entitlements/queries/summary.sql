-- A page of a tenant's usage types with the counters of their periods, one row a (type, counted day); of a lifetime, one row.
-- Types are those that the plan names and those that were ever used, after `cursor`, in order.
WITH tenant AS MATERIALIZED (
    SELECT tenant_id, plan_id FROM tenants WHERE tenant_id = %(tenant)s
), types AS MATERIALIZED (
    SELECT usage_type FROM (
        SELECT l.usage_type FROM plan_limits l JOIN tenant ON l.plan_id = tenant.plan_id
         UNION
        SELECT u.usage_type FROM usage_totals u WHERE u.tenant_id = %(tenant)s
         UNION
        SELECT h.usage_type FROM held h WHERE h.tenant_id = %(tenant)s
    ) named
     WHERE usage_type > %(cursor)s
     ORDER BY usage_type
     LIMIT %(count)s
)
SELECT types.usage_type, l.usage_type IS NOT NULL AS in_plan, trunc(l.quantity * 1000000)::text, l.hard, l.period,
       trunc(reserved.in_period * 1000000)::text, trunc(reserved.on_newest_day * 1000000)::text,
       c.day::text, trunc(c.quantity * 1000000)::text
  FROM types
  LEFT JOIN tenant ON true
  LEFT JOIN plan_limits l ON l.plan_id = tenant.plan_id AND l.usage_type = types.usage_type
  LEFT JOIN LATERAL (
       SELECT NULL::date AS day, u.quantity FROM usage_totals u
        WHERE l.period = 'lifetime' AND u.tenant_id = %(tenant)s AND u.usage_type = types.usage_type
        UNION ALL
       SELECT u.day, u.quantity FROM usage_counters u
        WHERE l.period IS DISTINCT FROM 'lifetime' AND u.tenant_id = %(tenant)s AND u.usage_type = types.usage_type
          AND u.day >= CASE l.period WHEN 'billing_period' THEN %(billing_start)s::date ELSE %(month_start)s::date END
          AND u.day < CASE l.period WHEN 'billing_period' THEN %(billing_end)s::date ELSE %(month_end)s::date END
       ) c ON true
  CROSS JOIN LATERAL (
       SELECT CASE l.period WHEN 'billing_period' THEN %(billing_start)s::date ELSE %(month_start)s::date END AS starts,
              CASE l.period WHEN 'billing_period' THEN %(billing_end)s::date ELSE %(month_end)s::date END AS ends
       ) shown
  LEFT JOIN LATERAL (
       -- What is open may be settled in any running period, and in none that is over.
       SELECT sum(h.quantity) FILTER (WHERE l.period = 'lifetime' OR (h.day >= shown.starts AND h.day < shown.ends)
                                         OR (h.day IS NULL AND %(today)s::date >= shown.starts AND %(today)s::date < shown.ends)
                                     ) AS in_period,
              sum(h.quantity) FILTER (WHERE coalesce(h.day, %(today)s::date) = %(newest_day)s::date) AS on_newest_day
         FROM held h
        WHERE h.tenant_id = %(tenant)s AND h.usage_type = types.usage_type
       ) reserved ON true
 ORDER BY types.usage_type, c.day
