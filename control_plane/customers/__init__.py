"""Customers: what the payment provider knows of a tenant. A tenant has one."""
