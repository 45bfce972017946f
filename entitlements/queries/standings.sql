-- How each asked (tenant, usage type) or (tenant, feature) stands: one row each, in the order asked, of one moment.
-- tenants, types, features, users: parallel arrays; where the type is NULL, the feature alone is asked for; where the user
-- is NULL, nobody's credits are looked at.
-- day_*, month_*: the running day and month. billing_starts[a], billing_ends[a]: the running billing period of anchor day a.
-- Every table is read by its primary key; the counters by one range of it, at most a period's days, and by a second one, of
-- the days of its grants, where a tenant has any. What a tenant has of its own stands in place of its plan's. What is held is read in
-- the same statement as the counters, so that a settled quantity is seen in one of them, never in neither.
SELECT t.tenant_id IS NOT NULL,                              -- tenant_known
       t.plan_id IS NOT NULL,                                -- has_plan
       t.status,                                             -- status
       t.subscription_status,                                -- subscription_status
       coalesce(tf.enabled, f.enabled),                      -- feature_enabled
       l.usage_type IS NOT NULL,                             -- in_plan
       trunc(l.quantity * 1000000)::text,                    -- limit_micros
       l.hard,                                               -- hard
       trunc(counted.quantity * 1000000)::text,              -- used_micros
       period.ends::text,                                    -- resets_on
       trunc(reserved.quantity * 1000000)::text,             -- reserved_micros
       l.when_unavailable,                                   -- when_unavailable
       trunc(u.credits * 1000000000000)::text,               -- credits_price
       trunc(b.balance * 1000000)::text,                     -- credits_balance
       CASE WHEN extra.grants IS NOT NULL THEN l.period END, -- grants_period
       t.anchor_day,                                         -- anchor_day
       extra.grants,                                         -- grants
       extra.used                                            -- grants_used
  FROM unnest(%(tenants)s::text[], %(types)s::text[], %(features)s::text[], %(users)s::text[])
       WITH ORDINALITY AS asked (tenant_id, usage_type, feature, user_id, place)
  LEFT JOIN LATERAL (
       -- OFFSET 0, here and below, makes each a look-up by key, whatever the planner believes of the tables' sizes.
       SELECT tenant_id, plan_id, status, subscription_status, anchor_day FROM tenants WHERE tenants.tenant_id = asked.tenant_id OFFSET 0
       ) t ON true
  LEFT JOIN LATERAL (
       SELECT feature, credits FROM usage_types o WHERE o.usage_type = asked.usage_type OFFSET 0
       ) u ON true
  LEFT JOIN LATERAL (
       SELECT enabled FROM plan_features o
        WHERE o.plan_id = t.plan_id AND o.feature = coalesce(asked.feature, u.feature) OFFSET 0
       ) f ON true
  LEFT JOIN LATERAL (
       SELECT enabled FROM tenant_features o
        WHERE o.tenant_id = t.tenant_id AND o.feature = coalesce(asked.feature, u.feature) OFFSET 0
       ) tf ON true
  LEFT JOIN LATERAL (
       SELECT o.* FROM tenant_limits o WHERE o.tenant_id = t.tenant_id AND o.usage_type = asked.usage_type OFFSET 0
       ) own ON true
  LEFT JOIN LATERAL (
       SELECT o.* FROM plan_limits o WHERE o.plan_id = t.plan_id AND o.usage_type = asked.usage_type OFFSET 0
       ) p ON true
  LEFT JOIN LATERAL (
       SELECT coalesce(own.usage_type, p.usage_type) AS usage_type, coalesce(own.period, p.period) AS period,
              coalesce(own.hard, p.hard) AS hard,
              -- NULL has a meaning in these two, so an own limit is taken as a whole.
              CASE WHEN own.usage_type IS NULL THEN p.quantity ELSE own.quantity END AS quantity,
              CASE WHEN own.usage_type IS NULL THEN p.when_unavailable ELSE own.when_unavailable END AS when_unavailable
       ) l ON true
  LEFT JOIN LATERAL (
       SELECT balance FROM credit_balances c
        WHERE u.credits IS NOT NULL AND c.user_id = asked.user_id AND c.tenant_id = asked.tenant_id OFFSET 0
       ) b ON true
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
  LEFT JOIN LATERAL (
       SELECT g.grants, CASE WHEN l.period <> 'lifetime' THEN (
              SELECT json_agg(json_build_array(c.day, trunc(c.quantity * 1000000)::text)) FROM usage_counters c
               WHERE c.tenant_id = asked.tenant_id AND c.usage_type = asked.usage_type
                 AND c.day >= g.since - 31 AND c.day <= %(day_start)s::date) END AS used
         FROM (SELECT json_agg(json_build_array(trunc(o.quantity * 1000000)::text, o.valid_from, o.expires_on)) AS grants,
                      min(o.valid_from) AS since
                 FROM grants o
                WHERE o.tenant_id = asked.tenant_id AND o.usage_type = asked.usage_type
                  AND o.expires_on > %(day_start)s::date - 400 AND o.valid_from <= %(day_start)s::date
                  AND l.quantity IS NOT NULL) g
       ) extra ON true
 ORDER BY asked.place
