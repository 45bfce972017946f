"""Subscriptions: which plan a tenant is on, until when, and what the payment provider says of it.

What a customer has is one subscription. At the provider it is one for each interval that it is billed by: a plan that is paid
by the year has its base price in a yearly one and its usage in a monthly one, since usage is billed by the month. `states.py`
is how one follows from the other; `wanted.py` what the provider is to hold; `operations.py` and `running.py` how it is brought
about, whatever crashes; `converging.py` how what the provider says comes back.
"""
