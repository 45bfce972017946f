"""One RPC: who asks, under which id, and until when. Its units of work end with its deadline."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import Message

from control_plane.http.calls import KEY_CHARACTERS_MAX, Call
from control_plane.http.envelope import Answer
from control_plane.refusals import Refusal
from control_plane.unit import Unit

LONGEST_S: Final = 30.0
"""What a call gets that brings no deadline, and the most that one gets."""

M = TypeVar("M", bound=Message)


class Late(Exception):
    """The call's deadline passed before it was done; what was under way in Postgres was rolled back."""


@dataclass(frozen=True)
class RpcCall(Call):
    """A call that was let in. Methods run in threads."""

    ends_at: float
    """On the monotonic clock."""

    def left_s(self) -> float:
        """How long it may still take. Raises Late."""
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise Late
        return left

    @contextmanager
    def unit(self) -> Iterator[Unit]:
        """One transaction of this call, committed when the block ends. Raises Late; no statement outlives the deadline."""
        left_ms = max(1, int(self.left_s() * 1_000))
        most_ms = int(self.parts.settings.postgres_timeout_s * 1_000)
        with self.parts.units.begin(self.actor) as unit:
            unit.pg.execute("SELECT set_config('statement_timeout', %s, true)", (str(min(left_ms, most_ms)),))
            yield unit

    def once_as(self, kind: type[M], act: Callable[[], M]) -> M:
        """As `once`, for an answer of this kind."""
        kept = self.once(lambda: Answer(act().SerializeToString()))
        return kind.FromString(bytes(kept.body))


def fingerprint_of(method: str, request: Message) -> bytes:
    """What was asked, as a hash."""
    return hashlib.sha256(method.encode() + b"\n" + request.SerializeToString(deterministic=True)).digest()


def idempotency_key_of(metadata: dict[str, str | bytes]) -> str | None:
    """The client's own key; None where it sent none. Raises Refusal."""
    key = metadata.get("idempotency-key")
    if key is None:
        return None
    if not isinstance(key, str) or not (1 <= len(key) <= KEY_CHARACTERS_MAX and key.isascii() and key.isprintable()):
        raise Refusal(
            "invalid",
            "bad_idempotency_key",
            f"idempotency-key has 1 to {KEY_CHARACTERS_MAX} printable ASCII characters; a UUID does well.",
        )
    return key
