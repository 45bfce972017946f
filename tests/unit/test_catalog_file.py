"""plans.yaml is read strictly and exactly, and every problem is told with its place."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.catalog_file import CatalogError, parse_catalog, read_catalog
from store.catalog_model import format_exact

EXAMPLE = Path(__file__).parents[2] / "examples" / "plans.yaml"


def one_limit(limit: str) -> str:
    return f"usage_types: {{U: {{}}}}\nplans:\n  p:\n    name: P\n    limits:\n      U: {limit}\n"


def test_the_example_answers_as_the_integration_guide_promises() -> None:
    catalog, text = read_catalog(EXAMPLE)
    limit = catalog.plans[catalog.tenants["tnt_123"].plan or ""].limits["PHOTO_ANALYSIS_DEEP"]
    assert (limit.limit, limit.hard) == (Decimal(15), True)
    assert catalog.tenants["tnt_123"].status == "active"
    assert len(catalog.usage_types) == 7
    assert len(catalog.plans) == 3
    without = {name for name, definition in catalog.usage_types.items() if definition.meter not in catalog.meters}
    # What nobody is charged is counted, and billed to nobody.
    assert without == {"CREDITS_REPORTED"}
    assert text == EXAMPLE.read_text()


@pytest.mark.parametrize("written", ["0.1", '"0.1"', "'0.1'"])
def test_a_quantity_is_exact_with_and_without_quotes(written: str) -> None:
    limit = parse_catalog(one_limit(f"{{limit: {written}, period: day}}")).plans["p"].limits["U"]
    assert isinstance(limit.limit, Decimal)
    assert limit.limit == Decimal("0.1")


@given(st.integers(0, 10**24 - 1))
def test_any_quantity_of_the_grammar_comes_back_as_it_was(micros: int) -> None:
    value = Decimal(f"{micros}E-6")
    text = format_exact(value)
    assert parse_catalog(one_limit(f"{{limit: {text}, period: day}}")).plans["p"].limits["U"].limit == value


@pytest.mark.parametrize(
    "written",
    [
        "1e3",
        "1.0000001",
        "-1",
        "+1",
        ".5",
        "1.",
        "01",
        "0x10",
        "1_000",
        ".inf",
        "NaN",
        "1000000000000000000",
        "'1 '",
        "[1]",
        "{}",
        "'\u0661'",
    ],
)
def test_a_quantity_that_is_not_plain_digits_is_refused(written: str) -> None:
    with pytest.raises(CatalogError, match=r"plans\.yaml:6: plans\.p\.limits\.U\.limit"):
        parse_catalog(one_limit(f"{{limit: {written}, period: day}}"))


def test_unlimited_must_be_written_and_empty_is_not_unlimited() -> None:
    assert parse_catalog(one_limit("{limit: unlimited, period: day}")).plans["p"].limits["U"].limit is None
    for empty in ("{limit: , period: day}", "{limit: null, period: day}", "{limit: ~, period: day}", "{period: day}"):
        with pytest.raises(CatalogError, match=r"plans\.p\.limits\.U"):
            parse_catalog(one_limit(empty))


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("{limit: 1, period: day, overage_price: 0.1}", "overage_price needs `enforce: soft`"),
        ("{limit: unlimited, enforce: hard, period: day}", "nothing to enforce"),
        ("{limit: unlimited, overage_price: 0.1, period: day}", "no overage"),
        ("{limit: 1, period: week}", "limits.U.period"),
        ("{limit: 1}", "limits.U.period"),
        ("{limit: 1, enforce: firm, period: day}", "limits.U.enforce"),
        ("{limit: 1, enforce: soft, overage_price: 0.0000000000001, period: day}", "overage_price"),
        ("{limit: 1, period: day, burst: 3}", "limits.U.burst: no such field"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(limit: str, told: str) -> None:
    with pytest.raises(CatalogError) as refusal:
        parse_catalog(one_limit(limit))
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plan:\n  a: {name: x}\n", "plans.yaml:1: plan: no such field"),
        ("plans:\n  a:\n    name: x\n    limts: {}\n", "plans.yaml:4: plans.a.limts: no such field"),
        ("features:\n  a: {}\n  b: {}\n  a: {}\n", "plans.yaml:4: features.a: stands here a second time"),
        ("usage_types:\n  U:\n    meter: m\n", "plans.yaml:3: usage_types.U.meter: m is not in meters"),
        ("usage_types:\n  U:\n    feature: f\n", "plans.yaml:3: usage_types.U.feature: f is not in features"),
        ("plans:\n  p:\n    name: P\n    features: {f: true}\n", "plans.yaml:4: plans.p.features.f: f is not in features"),
        ("tenants:\n  t: {plan: p}\n", "plans.yaml:2: tenants.t.plan: p is not in plans"),
        ("tenants:\n  t: {anchor_day: 32}\n", "plans.yaml:2: tenants.t.anchor_day"),
        ("tenants:\n  t: {anchor_day: 1.5}\n", "plans.yaml:2: tenants.t.anchor_day: want a whole number"),
        ("tenants:\n  t: {status: gone}\n", "plans.yaml:2: tenants.t.status"),
        ("meters:\n  m: {scale: 0}\n", "plans.yaml:2: meters.m.scale"),
        ("meters:\n  m: {mode: sum}\n", "plans.yaml:2: meters.m.mode"),
        ('usage_types:\n  "a\\tb": {}\n', "want no control characters"),
        ("usage_types:\n  '': {}\n", "want 1 to 256 bytes"),
        ("usage_types:\n  ? [a]\n  : {}\n", "a name must be text"),
        ("- a\n", "plans.yaml:1: the file"),
        ("", "holds nothing"),
        ("# a comment\n", "holds nothing"),
        ("a: [\n", "plans.yaml: while parsing"),
        ("a: !!python/object:os.system x\n", "plans.yaml:1: a: no such field"),
        ("a: &x [*x]\n", "nested deeper"),
        ("a: " + "[" * 5_000 + "]" * 5_000, "nested deeper"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_path(text: str, told: str) -> None:
    with pytest.raises(CatalogError) as refusal:
        parse_catalog(text)
    assert told in str(refusal.value)


def test_every_problem_is_told_at_once_but_not_without_end() -> None:
    text = "plans:\n" + "".join(f"  p{number}: {{nme: x}}\n" for number in range(50))
    with pytest.raises(CatalogError) as refusal:
        parse_catalog(text)
    told = str(refusal.value).splitlines()
    assert len(told) == 21
    assert told[-1] == "and 80 more"


def test_aliases_cannot_blow_a_small_file_up() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9)
    )
    with pytest.raises(CatalogError):
        parse_catalog(text)


def test_bytes_that_are_not_utf8_are_told(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_bytes(b"plans: \xff")
    with pytest.raises(CatalogError, match="byte 7 is not UTF-8"):
        read_catalog(path)


def priced(prices: str, limit: str = "{limit: 1, enforce: soft, overage_price: 0.5, period: billing_period}") -> str:
    return f"usage_types: {{U: {{}}}}\nplans:\n  p:\n    name: P\n{prices}    limits:\n      U: {limit}\n"


def test_a_plan_says_what_it_costs_in_each_currency() -> None:
    text = priced(
        "    currency: usd\n    prices: {usd: {monthly: 4900, yearly: 49000}, jpy: {monthly: 7000, overage: {U: 60}}}\n"
    )
    plan = parse_catalog(text).plans["p"]
    assert (plan.main_currency, plan.prices["usd"].yearly, plan.prices["jpy"].overage) == ("usd", 49000, {"U": Decimal(60)})
    assert parse_catalog(priced("    prices: {eur: {monthly: 0}}\n")).plans["p"].main_currency == "eur"
    assert parse_catalog(priced("")).plans["p"].main_currency is None


@pytest.mark.parametrize(
    ("prices", "told"),
    [
        ("    prices: {USD: {monthly: 1}}\n", "three letters, in lower case"),
        ("    prices: {usd: {monthly: 49.00}}\n", "want an amount of the currency's smallest unit"),
        ("    prices: {usd: {monthly: -1}}\n", "want an amount"),
        ("    prices: {usd: {monthly: 100000000}}\n", "want an amount"),
        ("    prices: {usd: {}}\n", "want `monthly`, `yearly` or both"),
        ("    prices: {usd: {weekly: 1}}\n", "no such field"),
        ("    prices: {kwd: {monthly: 1005}}\n", "want a multiple of 10"),
        ("    prices: {isk: {monthly: 150}}\n", "want a multiple of 100"),
        ("    prices: {usd: {monthly: 1}, eur: {monthly: 1}}\n", "say which one `overage_price` is in"),
        ("    currency: usd\n    prices: {usd: {monthly: 1}, eur: {monthly: 1}}\n", "prices.eur.overage.U: missing"),
        ("    prices: {usd: {monthly: 1, overage: {U: 1}}}\n", "its price is the limit's overage_price"),
        ("    currency: usd\n    prices: {eur: {monthly: 1, overage: {U: 1, V: 1}}}\n", "has no limit of it"),
    ],
)
def test_prices_that_make_no_sense_are_refused(prices: str, told: str) -> None:
    with pytest.raises(CatalogError) as refusal:
        parse_catalog(priced(prices))
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        ("{prices: {}}", "at least 1 item"),
        ("{prices: {2026-01-01: {input: 1, output: 2}}}", "say per_tokens"),
        ("{prices: {2026-01-01: {}}}", "an operation has `each`"),
        ("{per_tokens: 1000, prices: {2026-01-01: {each: 1}}}", "a model has `input` and `output`"),
        ("{per_tokens: 1000, prices: {2026-01-01: {input: 1}}}", "a model has `input` and `output`"),
        ("{per_tokens: 0, prices: {2026-01-01: {input: 1, output: 1}}}", "greater than or equal to 1"),
        ("{prices: {2026-01-01: {each: 1, until: 2026-01-01}}}", "until lies after 2026-01-01"),
        ("{prices: {2026-01-01: {each: 1, until: 2026-03-01}, 2026-02-01: {each: 2}}}", "not after the day of the next"),
        ("{prices: {2026-01-01: {each: -1}}}", "want a price"),
        ("{prices: {2026-01-01: {each: NaN}}}", "want a price"),
        ("{prices: {January: {each: 1}}}", "want a day"),
    ],
)
def test_a_rate_that_makes_no_sense_is_refused(rate: str, told: str) -> None:
    with pytest.raises(CatalogError, match=told):
        parse_catalog(f"rates: {{r: {rate}}}")


def test_what_is_not_said_of_cached_input_is_as_of_other_input() -> None:
    rate = parse_catalog("rates: {r: {per_tokens: 1000, prices: {2026-01-01: {input: 0.5, output: 2}}}}").rates["r"]
    (price,) = rate.prices.values()
    assert price.cached == Decimal("0.5")
