"""A Stripe that runs on this machine: an HTTP server that the official SDK talks to through its base address.

It keeps what it is told in one SQLite file, survives `kill -9`, and follows Stripe's rules for meters where a wrong total
could come from them. README.md says where it differs. Start it with `python -m deploy.embedded.local_stripe`.
"""
