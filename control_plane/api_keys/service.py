"""What may be done with an organization's API keys, each in the caller's unit."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from control_plane.accounts.repository import app_of
from control_plane.refusals import Refusal, not_found
from control_plane.unit import Unit
from runtime.keyring import Keyring, keyring
from runtime.sealing import ALGORITHM, Unopenable
from runtime.settings import Settings
from store import api_keys
from store.api_key_secrets import KeySecret, secret_of
from store.audit import Entry

REASON_CHARACTERS_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Valid:
    """Whose a valid key is."""

    app_id: str | None
    """None: the organization has no account."""
    tenant_id: str
    key_id: str
    source_services: tuple[str, ...]
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Kept:
    """How a key is kept."""

    secret: KeySecret
    algorithm: str = ALGORITHM


def keyring_of(settings: Settings) -> Keyring:
    """The keyring. Raises Refusal where none is set: without it no key can be made, found or revealed."""
    found = keyring(settings)
    if found is None:
        raise Refusal(
            "precondition",
            "no_encrypt_key",
            "METERLINE_SECRET_ENCRYPT_KEY is not set on this server, so it has no API keys; set it and start it again.",
        )
    return found


def validate(unit: Unit, keys: Keyring, key: str) -> Valid | None:
    """Whose key it is; None for one that is unknown, expired or revoked."""
    found = api_keys.verify(unit.pg, keys, key)
    if found is None:
        return None
    app_id = app_of(unit, found.tenant_id)
    return Valid(app_id, found.tenant_id, found.key_id, tuple(sorted(found.source_services)), found.expires_at)


def issue(
    unit: Unit,
    keys: Keyring,
    tenant_id: str,
    name: str,
    source_services: Collection[str] | None = None,
    expires_at: datetime | None = None,
) -> api_keys.Issued:
    """A new key. Raises Refusal."""
    try:
        return api_keys.issue(
            unit.pg, keys, tenant_id, name, source_services, expires_at, by=unit.actor.who, request_id=unit.actor.request_id
        )
    except api_keys.KeyRefused as refused:
        raise Refusal("invalid", "key_refused", f"{str(refused).capitalize()}.") from None


def secret(unit: Unit, tenant_id: str, secret_id: str) -> Kept:
    """How the key is kept that the organization has under this id. Raises Refusal."""
    found = secret_of(unit.pg, tenant_id, secret_id)
    if found is None:
        raise not_found("secret")
    return Kept(found)


def reveal(unit: Unit, keys: Keyring, tenant_id: str, secret_id: str, reason: str) -> tuple[str, str]:
    """The key's id and the key. Who asked and why is in the audit when this unit is committed, or the key was not shown.

    Raises Refusal: no such secret, no reason, a key that was sealed under a secret that the settings no longer have.
    """
    told = reason.strip()
    if not 1 <= len(told) <= REASON_CHARACTERS_MAX or not told.isprintable():
        raise Refusal(
            "invalid",
            "reason_required",
            f"Say why the key is revealed, in 1 to {REASON_CHARACTERS_MAX} printable characters; the audit keeps it.",
            {"fields": [{"field": "reason", "problem": f"1 to {REASON_CHARACTERS_MAX} printable characters"}]},
        )
    kept = secret(unit, tenant_id, secret_id).secret
    try:
        key = kept.opened(keys)
    except Unopenable as error:
        raise Refusal("precondition", "key_not_readable", f"The key cannot be read: {error}.") from None
    entry = Entry("api_key.revealed", kept.key_id, None, {"tenant": tenant_id, "secret": secret_id, "reason": told}, tenant_id)
    unit.audit(entry)
    return kept.key_id, key
