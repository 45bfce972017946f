-- How far the counters are, in the epochs that somebody waits for.
SELECT epoch, partition, next_offset FROM delta_fences WHERE epoch = ANY(%(epochs)s::int[])
