-- Rejects are stored by position, and looked for by tenant, by service, by reason, by time, and by key.
-- The log's time grows with the position, so a range of time skips almost everything else.
ALTER TABLE usage_rejects
    ADD INDEX IF NOT EXISTS by_ingested_at ingested_at TYPE minmax GRANULARITY 1,
    ADD INDEX IF NOT EXISTS by_reason reason TYPE set(50) GRANULARITY 1,
    ADD INDEX IF NOT EXISTS by_tenant tenant_id TYPE bloom_filter(0.01) GRANULARITY 1,
    ADD INDEX IF NOT EXISTS by_service source_service TYPE bloom_filter(0.01) GRANULARITY 1,
    ADD INDEX IF NOT EXISTS by_entity source_entity_id TYPE bloom_filter(0.01) GRANULARITY 1,
    ADD INDEX IF NOT EXISTS by_raw_key raw_key TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE usage_rejects
    MATERIALIZE INDEX by_ingested_at, MATERIALIZE INDEX by_reason, MATERIALIZE INDEX by_tenant, MATERIALIZE INDEX by_service,
    MATERIALIZE INDEX by_entity, MATERIALIZE INDEX by_raw_key
    SETTINGS mutations_sync = 2;
