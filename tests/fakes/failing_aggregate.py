"""The real aggregator in which one function fails at its n-th call: `python -m tests.fakes.failing_aggregate PLACE N aggregate`.

Each place is a way out of the loop body that Faust would acknowledge, or something that Faust itself does.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any

import aiokafka
import psycopg

import aggregator.app
import aggregator.counting
from aggregator.standing import StreamPositions
from cli.main import main


class Unforeseen(Exception):
    """What nobody names in an `except`."""


def _raise(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def _hang(*_: Any, **__: Any) -> None:
    threading.Event().wait(600)


PLACES: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "decode": (aggregator.counting, "decode", _raise(Unforeseen("in decoding"))),
    "count": (aggregator.counting, "add_sums", _raise(Unforeseen("in counting"))),
    "transaction": (aggregator.counting, "move_fence", _raise(psycopg.errors.SerializationFailure("again, please"))),
    "hang": (aggregator.counting, "add_sums", _hang),
    "note": (StreamPositions, "counted", _raise(Unforeseen("in the loop body, behind the counting"))),
    "commit": (aiokafka.AIOKafkaConsumer, "commit", _raise(Unforeseen("in Faust's own commit"))),
}


def fail_at(place: str, call: int) -> None:
    """The function at `place` fails once, and says so."""
    holder, name, fail = PLACES[place]
    real, calls = getattr(holder, name), itertools.count(1)

    @functools.wraps(real)
    def sometimes(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            sys.stderr.write(f"failing at {place}\n")
            sys.stderr.flush()
            return fail(*args, **kwargs)
        return real(*args, **kwargs)

    setattr(holder, name, sometimes)


if __name__ == "__main__":
    fail_at(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:3] = []
    main()
