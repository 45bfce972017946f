-- Counters are written over and over, all of a day's within seconds: a page that is half empty keeps the new version of each row
-- beside the old one, so that no index is touched and the table stays as large as it is. Pages that stand fill as they did.
ALTER TABLE usage_counters SET (fillfactor = 50);
ALTER TABLE usage_totals SET (fillfactor = 50);
