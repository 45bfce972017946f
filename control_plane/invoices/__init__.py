"""Invoices: a mirror of the payment provider's, and what the next one would be by the usage so far."""
