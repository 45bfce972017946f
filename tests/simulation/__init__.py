"""The range chain under a seeded scheduler: the product's own functions on a log, tables and a group kept in memory.

`python -m tests.simulation --seed N -v` replays one schedule; `docs/decisions/0016-*.md` says how it is built and why.
"""
