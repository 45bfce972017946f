"""PaymentService, whole."""

from __future__ import annotations

from control_plane.grpc import payment_billing, payment_customers, payment_subscriptions, payment_usage, payment_webhooks
from control_plane.grpc.payments import METHODS

__all__ = ["METHODS", "payment_billing", "payment_customers", "payment_subscriptions", "payment_usage", "payment_webhooks"]
