-- usage_events: each admitted event once; the truth that counters and invoices are derived from.
-- A row holds nothing that its record and position do not determine, so a repeated insert is identical and collapses.
-- row_version falls as the position grows: of two copies of a key the first admitted stays.
-- A table partition is a month of occurred_at, which the record determines, so copies of a row always meet in one.
CREATE TABLE IF NOT EXISTS usage_events
(
    tenant_id        String,
    usage_type       LowCardinality(String),
    source_service   LowCardinality(String),
    source_entity_id String,
    quantity         Decimal(18, 6),
    kind             LowCardinality(String),
    corrects         String COMMENT 'the key of the corrected event as netstrings, empty for usage',
    occurred_at      DateTime64(3, 'UTC'),
    ingested_at      DateTime64(3, 'UTC') COMMENT 'the time of the Kafka record',
    metadata         String CODEC(ZSTD(1)) COMMENT 'the JSON object as it was sent, empty when absent',
    log_epoch        UInt16,
    kafka_partition  UInt32,
    kafka_offset     UInt64,
    key_hash         UInt64 COMMENT 'xxh3-64 of the dedup key',
    key_murmur2      UInt32 COMMENT 'murmur2 of the dedup key: selects its slot for any partition count',
    row_hash         UInt64 COMMENT 'xxh3-64 of the record value',
    rules_version    UInt16,
    row_version      UInt64 COMMENT 'max - (epoch << 48 | offset)',
    -- What later stages rely on; a row that breaks one is a bug of ours, and must stop the insert rather than be billed.
    CONSTRAINT position_is_one_word CHECK log_epoch > 0 AND kafka_offset < 281474976710656
        AND row_version = bitNot(bitOr(bitShiftLeft(toUInt64(log_epoch), 48), kafka_offset)),
    CONSTRAINT ids_are_given CHECK notEmpty(tenant_id) AND notEmpty(usage_type) AND notEmpty(source_service)
        AND notEmpty(source_entity_id),
    CONSTRAINT only_corrections_correct CHECK kind IN ('usage', 'correction') AND (kind = 'correction') = notEmpty(corrects),
    CONSTRAINT only_corrections_are_negative CHECK quantity >= 0 OR kind = 'correction',
    PROJECTION by_position
    (
        SELECT log_epoch, kafka_partition, kafka_offset, tenant_id, usage_type, quantity, occurred_at, key_hash, key_murmur2, row_hash
        ORDER BY log_epoch, kafka_partition, kafka_offset
    ),
    PROJECTION by_key
    (
        SELECT key_hash, log_epoch, kafka_partition, kafka_offset, tenant_id, usage_type, source_service, source_entity_id,
               quantity, kind, corrects, row_hash
        ORDER BY key_hash
    )
)
ENGINE = ReplacingMergeTree(row_version)
PARTITION BY toYYYYMM(occurred_at)
ORDER BY (tenant_id, usage_type, source_service, source_entity_id)
SETTINGS deduplicate_merge_projection_mode = 'rebuild',
         fsync_after_insert = 1, fsync_part_directory = 1,
         non_replicated_deduplication_window = 0;
