"""Period totals to Stripe meters, with a ledger row committed before every call."""
