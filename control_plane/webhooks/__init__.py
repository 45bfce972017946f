"""What Stripe, Clerk and Lago tell us: verified, kept, then worked off.

`signatures.py` says whether it is theirs, `messages.py` what it is about, `service.py` keeps it before it is acknowledged,
`worker.py` works it off, `handlers.py` says who does what.
"""
