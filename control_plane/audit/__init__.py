"""The audit trail as its readers see it: who did what, before and after, under which request. Written by every noun."""
