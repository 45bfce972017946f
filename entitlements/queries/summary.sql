-- A page of a tenant's usage types with the counters of their periods, one row a (type, counted day); of a lifetime, one row.
-- Types are those that the plan or the tenant's own limits name and those that were ever used, after `cursor`, in order.
-- Periods: day_*, month_*, billing_*; what has no limit is shown by the month.
WITH tenant AS MATERIALIZED (
    SELECT t.tenant_id, t.plan_id, t.anchor_day, p.alerts FROM tenants t LEFT JOIN plans p USING (plan_id)
     WHERE t.tenant_id = %(tenant)s
), types AS MATERIALIZED (
    SELECT usage_type FROM (
        SELECT l.usage_type FROM plan_limits l JOIN tenant ON l.plan_id = tenant.plan_id
         UNION
        SELECT o.usage_type FROM tenant_limits o WHERE o.tenant_id = %(tenant)s
         UNION
        SELECT u.usage_type FROM usage_totals u WHERE u.tenant_id = %(tenant)s
         UNION
        SELECT h.usage_type FROM held h WHERE h.tenant_id = %(tenant)s
    ) named
     WHERE usage_type > %(cursor)s
     ORDER BY usage_type
     LIMIT %(count)s
)
SELECT types.usage_type, l.usage_type IS NOT NULL, trunc(l.quantity * 1000000)::text, l.hard, l.period,
       trunc(reserved.in_period * 1000000)::text, trunc(reserved.on_newest_day * 1000000)::text,
       tenant.alerts, tenant.anchor_day, extra.grants, extra.used,
       c.day::text, trunc(c.quantity * 1000000)::text
  FROM types
  JOIN tenant ON true
  LEFT JOIN LATERAL (
       SELECT o.* FROM tenant_limits o WHERE o.tenant_id = tenant.tenant_id AND o.usage_type = types.usage_type OFFSET 0
       ) own ON true
  LEFT JOIN LATERAL (
       SELECT o.* FROM plan_limits o WHERE o.plan_id = tenant.plan_id AND o.usage_type = types.usage_type OFFSET 0
       ) p ON true
  CROSS JOIN LATERAL (
       SELECT coalesce(own.usage_type, p.usage_type) AS usage_type, coalesce(own.period, p.period) AS period,
              coalesce(own.hard, p.hard) AS hard,
              CASE WHEN own.usage_type IS NULL THEN p.quantity ELSE own.quantity END AS quantity
       ) l
  CROSS JOIN LATERAL (
       SELECT CASE l.period WHEN 'day' THEN %(day_start)s::date WHEN 'billing_period' THEN %(billing_start)s::date
                            ELSE %(month_start)s::date END AS starts,
              CASE l.period WHEN 'day' THEN %(day_end)s::date WHEN 'billing_period' THEN %(billing_end)s::date
                            ELSE %(month_end)s::date END AS ends
       ) shown
  LEFT JOIN LATERAL (
       SELECT NULL::date AS day, u.quantity FROM usage_totals u
        WHERE l.period = 'lifetime' AND u.tenant_id = %(tenant)s AND u.usage_type = types.usage_type
        UNION ALL
       SELECT u.day, u.quantity FROM usage_counters u
        WHERE l.period IS DISTINCT FROM 'lifetime' AND u.tenant_id = %(tenant)s AND u.usage_type = types.usage_type
          AND u.day >= shown.starts AND u.day < shown.ends
       ) c ON true
  LEFT JOIN LATERAL (
       -- What is open may be settled in any running period, and in none that is over.
       SELECT sum(h.quantity) FILTER (WHERE l.period = 'lifetime' OR (h.day >= shown.starts AND h.day < shown.ends)
                                         OR (h.day IS NULL AND %(today)s::date >= shown.starts AND %(today)s::date < shown.ends)
                                     ) AS in_period,
              sum(h.quantity) FILTER (WHERE coalesce(h.day, %(today)s::date) = least(%(today)s::date, shown.ends - 1)
                                     ) AS on_newest_day
         FROM held h
        WHERE h.tenant_id = %(tenant)s AND h.usage_type = types.usage_type
       ) reserved ON true
  LEFT JOIN LATERAL (
       SELECT g.grants, CASE WHEN l.period <> 'lifetime' THEN (
              SELECT json_agg(json_build_array(d.day, trunc(d.quantity * 1000000)::text)) FROM usage_counters d
               WHERE d.tenant_id = %(tenant)s AND d.usage_type = types.usage_type
                 AND d.day >= g.since - 31 AND d.day < shown.ends) END AS used
         FROM (SELECT json_agg(json_build_array(trunc(o.quantity * 1000000)::text, o.valid_from, o.expires_on)) AS grants,
                      min(o.valid_from) AS since
                 FROM grants o
                WHERE o.tenant_id = %(tenant)s AND o.usage_type = types.usage_type
                  AND o.expires_on > shown.starts - 400 AND o.valid_from < shown.ends AND l.quantity IS NOT NULL) g
       ) extra ON true
 ORDER BY types.usage_type, c.day
