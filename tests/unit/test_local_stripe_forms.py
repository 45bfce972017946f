"""Nested form parameters: what is written is read, and garbage is refused in Stripe's shape."""

from __future__ import annotations

from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.embedded.local_stripe import forms
from deploy.embedded.local_stripe.problems import Problem

NAMES = st.text(st.characters(exclude_characters="[]\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
TREES = st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=12)


def _depth(tree: object) -> int:
    return 1 + max(map(_depth, tree.values()), default=0) if isinstance(tree, dict) else 0


def _written(tree: object, path: str = "") -> list[str]:
    if isinstance(tree, dict):
        return [line for name, inner in tree.items() for line in _written(inner, f"{path}[{name}]" if path else name)]
    return [f"{quote_plus(path)}={quote_plus(str(tree))}"]


@given(tree=st.dictionaries(NAMES, TREES, max_size=4).filter(lambda tree: _depth(tree) <= forms.DEPTH_MAX))
def test_nested_parameters_come_back_as_they_were_written(tree: dict[str, object]) -> None:
    assert forms.parse("&".join(_written(tree)).encode()) == tree


@given(raw=st.binary(max_size=200))
def test_any_bytes_are_parameters_or_a_problem(raw: bytes) -> None:
    try:
        outcome: object = forms.parse(raw)
    except Problem as problem:
        outcome = problem.status
    assert outcome == 400 or isinstance(outcome, dict)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"a=%ff", "UTF-8"),
        (b"a=%00", "null character"),
        (b"a[b=1", "parameter name"),
        (b"a]b=1", "parameter name"),
        (b"=1&[x]=1", "parameter name"),
        (b"a=1&a[b]=2", "both as a value and as a map"),
        (b"a[b]=2&a=1", "both as a value and as a map"),
        (b"a[b][c][d][e][f]=1", "deeper"),
        (b"&".join([b"a=1"] * 1_001), "more than 1000"),
        (b"a" * 501 + b"=1", "parameter name"),
    ],
)
def test_what_is_no_form_is_refused_with_the_reason(raw: bytes, why: str) -> None:
    with pytest.raises(Problem, match=why):
        forms.parse(raw)


def test_lists_may_be_numbered_or_appended() -> None:
    assert forms.parse(b"expand[0]=a&expand[1]=b") == forms.parse(b"expand[]=a&expand[]=b") == {"expand": {"0": "a", "1": "b"}}


@pytest.mark.parametrize("text", ["1.0", "1e3", "", " 1", "1_000", "0x10", "9" * 16, "\u0661"])
def test_a_whole_number_is_written_in_digits(text: str) -> None:
    with pytest.raises(Problem, match="integer"):
        forms.integer_of({"n": text}, "n")


def test_a_parameter_that_nobody_asked_for_is_named() -> None:
    with pytest.raises(Problem, match="unknown parameter: nmae"):
        forms.only({"nmae": "x", "expand": {}}, ("name",))
