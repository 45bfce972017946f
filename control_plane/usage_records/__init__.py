"""Usage as the billing services speak of it: a record is an event, and what was used is read from what was counted."""
