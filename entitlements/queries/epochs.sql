-- Every epoch, the one that goes on last.
SELECT epoch, topic, ends FROM epochs ORDER BY epoch
