-- The newest `count` samples that began at or before `until`, and whether the fences have reached them.
-- A sample is reached when every partition's end lies at or below its fence, and every older epoch is counted to its end;
-- a partition without a fence is not reached.
WITH fence AS MATERIALIZED (
    SELECT epoch, array_agg(next_offset ORDER BY partition) AS offsets,
           coalesce(bool_and(next_offset >= ends[partition + 1]), false) AS ended
      FROM delta_fences JOIN epochs USING (epoch)
     GROUP BY epoch
)
SELECT s.epoch, s.seen_from, s.seen_until,
       NOT EXISTS (SELECT FROM unnest(s.ends, fence.offsets) AS v (log_end, counted)
                    WHERE (log_end <= counted) IS NOT TRUE)
       AND NOT EXISTS (SELECT FROM fence older WHERE older.epoch < s.epoch AND NOT older.ended) AS reached
  FROM fence
 CROSS JOIN LATERAL (
       SELECT * FROM freshness_samples s
        WHERE s.epoch = fence.epoch AND s.seen_from <= %(until)s::timestamptz
        ORDER BY s.seen_from DESC
        LIMIT %(count)s
       ) s
 ORDER BY s.seen_from DESC
 LIMIT %(count)s
