-- The same register as in Postgres, so that a restored backup of either store is put right from the other.
CREATE TABLE IF NOT EXISTS forgotten
(
    kind      LowCardinality(String),
    pseudonym String,
    positions String COMMENT 'JSON: "epoch:partition" to the next offset, below which rows were forgotten',
    at        DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(at)
ORDER BY (kind, pseudonym)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 0;
