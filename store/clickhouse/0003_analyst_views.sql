-- What analysts query: FINAL applied, so a copy that has not collapsed yet is never counted.
-- FINAL may work in each table partition by itself, which is much quicker: copies of a row always lie in one partition.
-- Sums are Decimal128: a sum of the row's own type would overflow silently.
CREATE VIEW IF NOT EXISTS usage AS
SELECT tenant_id, usage_type, source_service, source_entity_id, quantity, kind, occurred_at, ingested_at, metadata,
       log_epoch, kafka_partition, kafka_offset
FROM usage_events FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

CREATE VIEW IF NOT EXISTS usage_daily AS
SELECT tenant_id, usage_type, toDate(occurred_at, 'UTC') AS day,
       sum(toDecimal128(quantity, 6)) AS quantity, count() AS events
FROM usage_events FINAL
GROUP BY tenant_id, usage_type, day
SETTINGS do_not_merge_across_partitions_select_final = 1;

CREATE VIEW IF NOT EXISTS usage_by_tenant_month AS
SELECT tenant_id, usage_type, toStartOfMonth(occurred_at, 'UTC') AS month,
       sum(toDecimal128(quantity, 6)) AS quantity, count() AS events
FROM usage_events FINAL
GROUP BY tenant_id, usage_type, month
SETTINGS do_not_merge_across_partitions_select_final = 1;
