"""Names from outside as labels of a metric: bounded, whatever comes."""

from __future__ import annotations

from runtime.metrics import OTHER, BoundedNames


def test_the_first_names_are_labels_and_all_later_ones_share_one() -> None:
    names = BoundedNames(2)
    assert [names.label(name) for name in ("a", "b", "c", "a", "d", "b")] == ["a", "b", OTHER, "a", OTHER, "b"]
