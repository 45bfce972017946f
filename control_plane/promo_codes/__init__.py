"""Promo codes: what an operator gives away, to whom, how often. The provider holds each as well, and discounts the invoices."""
