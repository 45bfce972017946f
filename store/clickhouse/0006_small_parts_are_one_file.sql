-- What a part costs on the disk, and that no merge may lose what an insert had made durable (decision 47).
-- A merged part is written to the disk before the parts that it is made of are deleted: an insert's fsync ends with them.
-- A part of less than 10 MiB is one file instead of a dozen, so an insert waits for one fsync.
-- Projections are made by the first merge. Until then the rows of a part that small are read without them.
-- Parts that were merged are deleted one after the other: a hundred threads at it hold up every insert's fsync.
ALTER TABLE usage_events MODIFY SETTING
    min_rows_to_fsync_after_merge = 1, min_bytes_for_full_part_storage = 10485760,
    materialize_projections_on_insert = 0, materialize_projections_on_merge = 1,
    concurrent_part_removal_threshold = 1000000;
ALTER TABLE usage_rejects MODIFY SETTING
    min_rows_to_fsync_after_merge = 1, min_bytes_for_full_part_storage = 10485760, concurrent_part_removal_threshold = 1000000;
ALTER TABLE forgotten MODIFY SETTING min_rows_to_fsync_after_merge = 1;
