-- Which of the tables that this stage reads are not there: the migrations have not run, or not all of them.
SELECT wanted.name
  FROM unnest(ARRAY['epochs', 'delta_fences', 'usage_counters', 'usage_totals', 'freshness_samples', 'tenants', 'plans',
                    'plan_limits', 'plan_features', 'usage_types', 'service_secrets',
                    'hold_locks', 'holds', 'outbox', 'usage_alerts', 'alert_progress']) AS wanted (name)
 WHERE to_regclass(wanted.name) IS NULL
