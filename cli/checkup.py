"""What `meterline doctor` looks at: every connection and setting, each within a time limit, each failure with its remedy.

It reads and changes nothing. Checks that need a connection run after it, and are left out when it is missing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.settings import Settings

CHECK_LIMIT_S = 15.0
"""A check that has no answer by then has failed. Its clients give up before: this is for one that does not."""

SERVER_LIMIT_S = 5.0
"""How long a server may take for one answer while the doctor waits; shorter than the settings of a stage allow."""

Status = Literal["ok", "warning", "failed", "not checked"]


@dataclass(frozen=True)
class Finding:
    """What one check found. A warning and a failure have a remedy; a warning does not fail the whole."""

    check: str
    status: Status
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        assert (self.status in ("warning", "failed")) == bool(self.remedy), f"{self.check}: {self.status} and its remedy"


Answer = tuple[Status, str, str]
"""Status, what was found, the remedy."""


@dataclass(frozen=True)
class Check:
    """One thing to look at. `needs` names checks that must have succeeded first."""

    name: str
    look: Callable[[Settings], Answer]
    needs: tuple[str, ...] = ()


def ok(found: str) -> Answer:
    """It is as it should be."""
    return "ok", found, ""


def warning(found: str, remedy: str) -> Answer:
    """The system runs; somebody should know."""
    return "warning", found, remedy


def failed(found: str, remedy: str) -> Answer:
    """It does not work like this."""
    return "failed", found, remedy


def examine(
    settings: Settings, checks: Sequence[Check], limit_s: float = CHECK_LIMIT_S, *, servers_s: float = SERVER_LIMIT_S
) -> list[Finding]:
    """Runs the checks, those that wait for nothing at the same time, and returns their findings in the given order.

    Takes at most `limit_s` for each link of the longest chain of needs. A check that overruns keeps its thread, which
    does not keep the process alive.
    """
    patient = settings.model_copy(
        update={
            "postgres_timeout_s": min(settings.postgres_timeout_s, servers_s),
            "clickhouse_timeout_s": min(settings.clickhouse_timeout_s, servers_s),
        }
    )
    findings: dict[str, Finding] = {}
    waiting = list(checks)
    while waiting:
        ready = [check for check in waiting if all(need in findings for need in check.needs)]
        if not ready:
            raise ValueError(f"these checks wait for each other or for nothing known: {', '.join(c.name for c in waiting)}")
        waiting = [check for check in waiting if check not in ready]
        started = []
        for check in ready:
            missing = [need for need in check.needs if findings[need].status in ("failed", "not checked")]
            if missing:
                findings[check.name] = Finding(check.name, "not checked", f"needs {' and '.join(missing)}")
                continue
            answers: list[Answer] = []
            thread = threading.Thread(target=_look, args=(check, patient, answers), name=f"doctor {check.name}", daemon=True)
            thread.start()
            started.append((check, thread, answers))
        deadline = time.monotonic() + limit_s
        for check, thread, answers in started:
            thread.join(max(0.0, deadline - time.monotonic()))
            # The list may be filled by a thread that comes late: whatever it holds now counts.
            answer = (
                answers[0] if answers else failed(f"no answer within {limit_s:g} s", "look at the network and at that server")
            )
            findings[check.name] = Finding(check.name, *answer)
    return [findings[check.name] for check in checks]


def _look(check: Check, settings: Settings, answers: list[Answer]) -> None:
    try:
        answers.append(check.look(settings))
    except Exception as error:  # noqa: BLE001 - a doctor that dies of one finding shows none; this one is shown as it is
        answers.append(
            failed(
                f"the check itself failed: {type(error).__name__}: {error}", "report this as a defect, with the words on the left"
            )
        )
