"""The catalog in the guide to prices is one, and makes the prices that the guide says."""

from __future__ import annotations

import re

from billing_exporter.wanted_prices import wanted_prices
from store.catalog_file import parse_catalog
from tests.architecture.source import ROOT

GUIDE = (ROOT / "docs" / "stripe-setup.md").read_text("utf-8")


def test_the_catalog_of_the_guide_makes_base_prices_and_exact_overage() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    made = {(one.slot.kind, one.slot.cycle, one.slot.currency): one.figures for one in wanted_prices(parse_catalog(text))}
    assert made == {
        ("base", "monthly", "usd"): {"amount": "4900"},
        ("base", "yearly", "usd"): {"amount": "49000"},
        ("base", "monthly", "jpy"): {"amount": "7500"},
        ("overage", "monthly", "usd"): {"included": "600000000", "unit_amount": "0.000002"},
        ("overage", "monthly", "jpy"): {"included": "600000000", "unit_amount": "0.000003"},
    }


def test_every_price_of_the_example_can_be_made() -> None:
    catalog = parse_catalog((ROOT / "examples" / "plans.yaml").read_text("utf-8"))
    assert [one.reason for one in wanted_prices(catalog) if one.reason] == []
