"""The manual's table of limits: every bounded setting, its bounds, a metric that there is and a test that there is."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import NamedTuple

import pytest
from annotated_types import Ge, Gt, Le, Lt
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from runtime import metrics
from runtime.settings import PREFIX, Settings
from tests.architecture.source import ROOT


class Row(NamedTuple):
    bounds: str
    metric: str
    effect: str
    test: str


@cache
def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)^## ", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/operations.md has no section {title}"
    return found[1]


def rows() -> dict[str, Row]:
    found: dict[str, Row] = {}
    for line in section("Limits").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].startswith(f"`{PREFIX}"):
            name = cells[0].strip("`").removeprefix(PREFIX).lower()
            assert name not in found, f"two rows for {name}"
            found[name] = Row(*cells[1:])
    return found


def bounded() -> dict[str, str]:
    """Setting -> its bounds as the table writes them."""
    signs = {Gt: ">", Ge: ">=", Lt: "<", Le: "<="}
    found = {}
    for name, field in Settings.model_fields.items():
        told = []
        for limit in field.metadata:
            if type(limit) in signs:
                (value,) = (getattr(limit, part) for part in ("gt", "ge", "lt", "le") if hasattr(limit, part))
                told.append(f"{signs[type(limit)]} {value:,.0f}" if value == int(value) else f"{signs[type(limit)]} {value}")
        if told:
            found[name] = ", ".join(told)
    return found


def metric_names() -> set[str]:
    """As they are served."""
    found = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    return {f"{metric._name}_total" if isinstance(metric, Counter) else metric._name for metric in found}


def test_the_table_has_every_bounded_setting_with_its_bounds_and_no_other() -> None:
    assert {name: row.bounds for name, row in rows().items()} == bounded()


def test_a_bounded_setting_is_recognized() -> None:
    assert bounded()["spool_bytes_max"] == ">= 65,536"
    assert bounded()["postgres_timeout_s"] == "> 0, <= 600"
    assert "kafka_url" not in bounded()


@pytest.mark.parametrize("name", bounded())
def test_a_limit_names_a_metric_that_there_is_or_says_why_there_is_none(name: str) -> None:
    metric = rows()[name].metric
    if metric.startswith("-"):
        assert re.fullmatch(r"- \(.{5,}\)", metric), f"{name}: without a metric, the table says why, in brackets"
    else:
        assert metric.strip("`") in metric_names()


@pytest.mark.parametrize("name", bounded())
def test_a_limit_names_a_test_that_there_is_and_what_happens_at_it(name: str) -> None:
    row = rows()[name]
    assert row.effect
    file, _, function = row.test.strip("`").partition("::")
    path = ROOT / "tests" / file
    assert path.is_file(), f"{name}: there is no tests/{file}"
    tree = ast.parse(path.read_text("utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{name}: {file} lacks it"
    assert function.startswith("test_")
