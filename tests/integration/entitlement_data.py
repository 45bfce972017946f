"""A small catalog for the tests of the endpoint, put in by SQL."""

from __future__ import annotations

from runtime.postgres import connect
from runtime.settings import Settings
from store.service_secrets import create

TENANT, INACTIVE, PLANLESS, ANCHORED = "tnt_123", "tnt_inactive", "tnt_planless", "tnt_anchored"
SERVICE = "analysis-worker"

_TYPES = ["DEEP", "SOFT", "FREE", "DAILY", "LIFE", "BILLED", "OFF", "UNPLANNED"]
_LIMITS = [
    ("DEEP", "10", True, "month"),
    ("SOFT", "10", False, "month"),
    ("FREE", None, True, "month"),
    ("DAILY", "2.5", True, "day"),
    ("LIFE", "100", True, "lifetime"),
    ("BILLED", "50", True, "billing_period"),
    ("OFF", "5", True, "month"),
]


def put_catalog(settings: Settings) -> tuple[str, str]:
    """The catalog, and two secrets: of a service that emits for SERVICE, and of one that emits for others."""
    with connect(settings) as connection:
        connection.execute("INSERT INTO features (feature) VALUES ('analysis'), ('off'), ('unplanned')")
        for usage_type in _TYPES:
            feature = {"OFF": "off", "DEEP": "analysis"}.get(usage_type)
            connection.execute("INSERT INTO usage_types (usage_type, feature) VALUES (%s, %s)", (usage_type, feature))
        connection.execute("INSERT INTO plans (plan_id, name) VALUES ('pro', 'Pro')")
        connection.execute("INSERT INTO plan_features VALUES ('pro', 'analysis', true), ('pro', 'off', false)")
        for usage_type, quantity, hard, period in _LIMITS:
            connection.execute(
                "INSERT INTO plan_limits (plan_id, usage_type, quantity, hard, period) VALUES ('pro', %s, %s, %s, %s)",
                (usage_type, quantity, hard, period),
            )
        for tenant, plan, status, anchor in (
            (TENANT, "pro", "active", 1),
            (INACTIVE, "pro", "inactive", 1),
            (PLANLESS, None, "active", 1),
            (ANCHORED, "pro", "active", 31),
        ):
            row = (tenant, plan, status, anchor)
            connection.execute("INSERT INTO tenants (tenant_id, plan_id, status, anchor_day) VALUES (%s, %s, %s, %s)", row)
        return create(connection, "photos", [SERVICE]), create(connection, "chat", ["chat-proxy"])
