"""What stands in place of an id that was forgotten: keyed, so that only who has the key can tell whose it was. Pure.

The same id has the same pseudonym for ever, so an event that is sent again is still known: its own pseudonym is compared
with the stored one. That is why the key never rotates; its fingerprint stands in each pseudonym, so that another key is
recognised instead of making a known event look new.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

from metering.ranges import Claim
from meterline_schemas.key import dedup_key, key_hash, parse_key

PREFIX: Final = "forgotten:"
KEY_BYTES_MIN: Final = 32
_MARK: Final = b":forgotten:"
_TEXT: Final = re.compile(r"forgotten:([0-9a-f]{8}):[0-9a-f]{40}")

Kind = Literal["tenant", "user"]


class OtherKey(Exception):
    """A pseudonym was made with another key than the one that is set: METERLINE_FORGET_KEY may never change."""


def key_id_of(text: str) -> str | None:
    """The fingerprint of the key in a pseudonym; None for any other text."""
    match = _TEXT.fullmatch(text)
    return None if match is None else match[1]


class Pseudonyms:
    """Makes them with one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES_MIN:
            raise ValueError(f"a key has at least {KEY_BYTES_MIN} bytes, not {len(key)}")
        self._key = key
        self.key_id = self._mac("key", b"")[:8]

    def of(self, kind: Kind, text: str) -> str:
        """Of a tenant or user."""
        return f"{PREFIX}{self.key_id}:{self._mac(kind, text.encode())[:40]}"

    def of_entity(self, key: bytes) -> str:
        """Of the sourceEntityId in a dedup key."""
        return f"{PREFIX}{self.key_id}:{self._mac('entity', key)[:40]}"

    def of_key(self, key: bytes) -> bytes:
        """The dedup key with its sourceEntityId replaced; nothing for nothing."""
        if not key:
            return key
        service, _, usage_type = parse_key(key)
        return dedup_key(service, self.of_entity(key), usage_type)

    def check(self, pseudonym: str) -> None:
        """Raises OtherKey unless the pseudonym is of this key."""
        if key_id_of(pseudonym) != self.key_id:
            raise OtherKey(f"{pseudonym} was made with another key than the one set now, {self.key_id}")

    def _mac(self, purpose: str, text: bytes) -> str:
        return hmac.new(self._key, purpose.encode() + b"\0" + text, hashlib.sha256).hexdigest()


class Asked(NamedTuple):
    """What a record that waits for its verdict says of its key and of what is compared."""

    key: bytes
    tenant_id: str
    corrects: bytes


def recognised(claims: Mapping[bytes, Claim], asked: Iterable[Asked], pseudonyms: Pseudonyms | None) -> dict[bytes, Claim]:
    """The claims, those of forgotten rows also under the keys that they had, with the names that the records ask with.

    A row was forgotten where its stored key has another hash than the one that it was admitted with. Raises OtherKey when
    one stands among the claims that this key did not make, or there is no key: its event would be taken for a new one.
    """
    found = dict(claims)
    hidden: dict[bytes, Claim] = {}
    for key, claim in claims.items():
        entity = parse_key(key)[1] if _MARK in key else ""
        if key_id_of(entity) is not None and key_hash(key) != claim.key_hash:
            if pseudonyms is None:
                raise OtherKey(f"the row at {claim.position} was forgotten, and no key is set to know it by")
            pseudonyms.check(entity)
            hidden[key] = claim
    if not hidden or pseudonyms is None:
        return found
    for key, tenant_id, corrects in asked:
        held = hidden.get(pseudonyms.of_key(key))
        if held is None:
            continue
        # Of several records of the key, one may ask with the right names and another not: what fits once is kept.
        claim = found.get(key, held)
        if pseudonyms.of("tenant", tenant_id) == claim.tenant_id:
            claim = claim._replace(tenant_id=tenant_id)
        if corrects and pseudonyms.of_key(corrects) == claim.corrects:
            claim = claim._replace(corrects=corrects)
        found[key] = claim
    return found
