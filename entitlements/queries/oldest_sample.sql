-- When the oldest kept sample began: of the oldest epoch that has one.
SELECT seen_from FROM freshness_samples
 ORDER BY epoch, seen_from
 LIMIT 1
