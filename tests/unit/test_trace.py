"""A trace context comes in as the standard writes it, or a new one begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import trace

SAMPLE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_valid_header_is_read_and_written_back() -> None:
    parsed = trace.parse(SAMPLE)
    assert parsed is not None
    assert parsed.flags == 1
    assert str(parsed) == SAMPLE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        SAMPLE.upper(),
        SAMPLE + "-more",
        SAMPLE + "\n-",
        "ff" + SAMPLE[2:],
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        "cc" + SAMPLE[2:] + "-" + "x" * 200,
    ],
)
def test_what_is_no_trace_context_begins_a_new_trace(header: str | None) -> None:
    assert trace.parse(header) is None
    assert trace.following(header) != trace.following(header)


def test_a_later_version_is_read_by_its_first_fields() -> None:
    parsed = trace.parse("cc" + SAMPLE[2:] + "-what-comes-later")
    assert parsed is not None
    assert str(parsed) == SAMPLE


def test_what_follows_stays_in_the_trace_under_a_span_of_its_own() -> None:
    parent = trace.parse(SAMPLE)
    assert parent is not None
    follower = trace.following(SAMPLE)
    assert follower.trace_id == parent.trace_id
    assert follower.span_id != parent.span_id
    assert follower.flags == parent.flags


def test_a_new_trace_is_valid() -> None:
    begun = trace.new()
    assert trace.parse(str(begun)) == begun


@given(st.text(max_size=200))
def test_no_text_breaks_it(header: str) -> None:
    assert trace.parse(str(trace.following(header))) is not None
