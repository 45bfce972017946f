"""Range deltas to Postgres counters, in the transaction that holds the fence."""
