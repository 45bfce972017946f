"""What a check of an invariant has to say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SHOWN_MAX = 100
"""Findings of one check that are kept; the others are only counted, so that a lost table does not fill the memory."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be."""

    invariant: str
    what: str
    where: dict[str, Any]
    expected: str
    found: str

    def as_json(self) -> dict[str, Any]:
        return {
            "invariant": self.invariant,
            "what": self.what,
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
        }


@dataclass
class Check:
    """One invariant: how much of it was looked at, what was seen, and what is wrong."""

    invariant: str
    checked: int = 0
    detail: str = ""
    findings: list[Finding] = field(default_factory=list)
    findings_count: int = 0

    @property
    def ok(self) -> bool:
        return self.findings_count == 0

    def add(self, what: str, where: dict[str, Any], expected: object, found: object) -> None:
        """Notes a finding."""
        self.findings_count += 1
        if len(self.findings) < SHOWN_MAX:
            self.findings.append(Finding(self.invariant, what, where, str(expected), str(found)))

    def as_json(self) -> dict[str, Any]:
        return {
            "invariant": self.invariant,
            "ok": self.ok,
            "checked": self.checked,
            "detail": self.detail,
            "findings": self.findings_count,
        }


def partition_of_log(epoch: int, partition: int) -> dict[str, Any]:
    """Where a finding about a whole partition is."""
    return {"epoch": epoch, "partition": partition}


def all_findings(checks: Iterable[Check]) -> list[Finding]:
    """The kept findings of all checks."""
    return [finding for check in checks for finding in check.findings]
