-- usage_rejects: each invalid record, conflict and differing duplicate, with its raw bytes.
-- The sort key is the position, so a repeated insert collapses.
CREATE TABLE IF NOT EXISTS usage_rejects
(
    log_epoch        UInt16,
    kafka_partition  UInt32,
    kafka_offset     UInt64,
    verdict          LowCardinality(String) COMMENT 'invalid, conflict, or duplicate (a differing one)',
    reason           LowCardinality(String) COMMENT 'a code of meterline_schemas.reasons',
    detail           String,
    tenant_id        String COMMENT 'empty where the record could not be read',
    source_service   String,
    source_entity_id String,
    usage_type       String,
    ingested_at      DateTime64(3, 'UTC'),
    raw_key          String,
    raw_value        String CODEC(ZSTD(1)),
    headers          Array(Tuple(String, String)),
    row_hash         UInt64,
    admitted_epoch     UInt16 COMMENT 'where the admitted row of the same key stands, epoch 0 when there is none',
    admitted_partition UInt32,
    admitted_offset    UInt64,
    rules_version    UInt16,
    CONSTRAINT position_is_given CHECK log_epoch > 0,
    CONSTRAINT verdict_is_known CHECK verdict IN ('invalid', 'conflict', 'duplicate') AND notEmpty(reason)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ingested_at)
ORDER BY (log_epoch, kafka_partition, kafka_offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 0;
