"""A process that subscribes a tenant and is killed at a crash point: `python -m tests.fakes.subscribing TENANT CYCLE`."""

from __future__ import annotations

import os
import sys

from control_plane.parts import parts_of
from control_plane.subscriptions import service
from control_plane.subscriptions.views import CreateOrder
from control_plane.unit import Actor
from runtime.crash import arm
from runtime.settings import load_settings


def main(tenant_id: str, cycle: str) -> None:
    arm(os.environ["METERLINE_CRASH_AT"])
    parts = parts_of(load_settings(dict(os.environ)))
    order = CreateOrder("studio", "yearly" if cycle == "yearly" else "monthly", "usd", payment_method_id="pm_card_visa")
    service.create(parts.units, parts.provider, tenant_id, order, Actor("test"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
