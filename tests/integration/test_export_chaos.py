"""T3 of the exporter, small: each crash point, random kills, every fault at 5 %, a day's outage, and not one total differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.settings import Settings
from tests.chaos.exports.run import POINTS, ExportChaos, Order
from tests.fakes.local_stripe_server import LocalStripeServer


@pytest.mark.timeout(400)
def test_whatever_dies_or_fails_every_total_at_stripe_is_clickhouses(migrated: Settings, tmp_path: Path) -> None:
    said: list[str] = []
    with LocalStripeServer(tmp_path / "stripe") as stripe:
        figures = ExportChaos(migrated, stripe, Order(tenants=40, kills=4, seed=11), said.append).run()
    assert figures["ok"], (figures, said)
    assert (figures["differ"], figures["stuck_without_reason"]) == (0, 0)
    assert figures["totals"] == 40 * 3
    assert figures["states"].get("manual", 0) == 0
    assert all(figures["exits"][f"{point}: killed"] >= 1 for point in POINTS)
    assert figures["calls"] > figures["revisions"] * 0.5
