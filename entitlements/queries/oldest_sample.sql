-- When the oldest kept sample of the current epoch began.
SELECT seen_from FROM freshness_samples
 WHERE epoch = (SELECT max(epoch) FROM epochs)
 ORDER BY seen_from
 LIMIT 1
