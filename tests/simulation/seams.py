"""The one place that knows where the product's code meets its stores, and puts the simulated ones there.

Everything between these seams is the product's: deciding, assigning, storing in order, counting. Names are replaced in
the importing modules only, and put back afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import aggregator.counting
import consumers.assignment
import consumers.deciding
import consumers.forwarding
import consumers.storing
import metering.keys
import metering.line_columns
import metering.reading
from meterline_schemas.rules import Rules
from tests.simulation import codec, ledger, tables
from tests.simulation.violation import Crash

_FEW_RECORDS: Final = metering.reading._FEW_RECORDS
_MANY_BYTES: Final = metering.line_columns.MANY_BYTES


class _Current:
    """What the running schedule plugs in."""

    crashes_counting: Any = None
    """Asked at the aggregator's crash points: whether to crash there."""


current: Final = _Current()


class _Quiet:
    """Stands for a metric: counting them would cost more than the rules do."""

    def labels(self, *_: object) -> _Quiet:
        return self

    def inc(self, *_: object) -> None: ...

    def set(self, *_: object) -> None: ...

    def observe(self, *_: object) -> None: ...


class _QuietMetrics:
    _one = _Quiet()

    def __getattr__(self, name: str) -> _Quiet:
        return self._one


def _crash_point(name: str) -> None:
    if current.crashes_counting is not None and current.crashes_counting():
        raise Crash(name)


@contextmanager
def driven() -> Iterator[None]:
    """Within, the product's modules work on simulated stores."""
    quiet = _QuietMetrics()
    replaced: list[tuple[Any, Mapping[str, Any]]] = [
        (metering.reading, {"decode": codec.decode, "murmur2": codec.murmur2, "key_hash": codec.key_hash}),
        (metering.keys, {"key_hash": codec.key_hash}),
        (
            consumers.deciding,
            {
                "event_log": SimpleNamespace(admitted_rows=tables.admitted_rows, reject_rows=tables.reject_rows),
                "metrics": quiet,
            },
        ),
        (
            consumers.assignment,
            {
                "event_log": SimpleNamespace(
                    held_below=lambda reads, e, p, offset, add: reads.held_below(e, p, offset, add),
                    keys_between=lambda reads, e, p, start, end: reads.keys_between(e, p, start, end),
                )
            },
        ),
        (
            consumers.forwarding,
            {
                "decode": codec.decode,
                "partition_of": lambda key, n: (codec.murmur2(key) & 0x7FFFFFFF) % n,
                "note_forwarded": ledger.note_forwarded,
                "metrics": quiet,
                "headers_of": lambda messages: [message.headers() for message in messages],
            },
        ),
        (consumers.storing, {"metrics": quiet, "_count": lambda cycle: None}),
        (
            aggregator.counting,
            {
                "event_log": SimpleNamespace(recompute=lambda reads, e, p, start, end: reads.recompute(e, p, start, end)),
                "lock_fences": ledger.lock_fences,
                "add_sums": ledger.add_sums,
                "read_fences": ledger.read_fences,
                "move_fence": ledger.move_fence,
                "note_repair": ledger.note_repair,
                "crash_point": _crash_point,
                "metrics": quiet,
            },
        ),
    ]
    with ExitStack() as stack:
        for module, names in replaced:
            stack.enter_context(patch.multiple(module, **names))
        stack.enter_context(patch.object(consumers.deciding, "RULES", {}))
        stack.enter_context(patch.object(metering.reading, "_FEW_RECORDS", _FEW_RECORDS))
        stack.enter_context(patch.object(metering.line_columns, "MANY_BYTES", _MANY_BYTES))
        disabled = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, disabled)
        yield


def reads_in_columns(however_few: bool) -> None:
    """Ranges and deltas are small here, and would be read one by one; now and then they are read as large ones are."""
    vars(metering.reading)["_FEW_RECORDS"] = 0 if however_few else _FEW_RECORDS
    vars(metering.line_columns)["MANY_BYTES"] = 0 if however_few else _MANY_BYTES


def knows(rules: Mapping[int, Rules]) -> None:
    """The rules of the build that decides next; two builds may run side by side."""
    vars(consumers.deciding)["RULES"] = rules
