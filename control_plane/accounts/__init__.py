"""Accounts: an organization, its customer at the payment provider, its first key; made in steps that can be resumed."""
