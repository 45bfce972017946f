"""What an account is to those who ask, and what one is made of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

State = Literal["begun", "customer", "done", "refused"]

NAME_CHARACTERS_MAX: Final = 256
EMAIL_CHARACTERS_MAX: Final = 320


@dataclass(frozen=True, slots=True)
class NewAccount:
    """What is asked for."""

    organization_id: str
    name: str
    email: str | None = None
    plan_id: str | None = None
    anchor_day: int = 1
    source_services: tuple[str, ...] = ()
    """Of the first key; empty: the one that is named like the organization."""

    @property
    def digest(self) -> bytes:
        """By which the same request is known again when its details are no longer kept."""
        asked = [self.organization_id, self.name, self.email, self.plan_id, self.anchor_day, sorted(set(self.source_services))]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).digest()


@dataclass(frozen=True, slots=True)
class Creation:
    """How far the making of an account has come."""

    app_id: str
    tenant_id: str
    digest: bytes
    state: State
    name: str
    email: str | None
    source_services: tuple[str, ...]
    secret_id: str | None
    reason: str | None
    tries: int


@dataclass(frozen=True, slots=True)
class KeyShown:
    """A key of an account, without the key."""

    key_id: str
    secret_id: str | None
    name: str
    shown: str
    source_services: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Account:
    """An account with its organization."""

    app_id: str
    tenant_id: str
    name: str
    status: str
    plan_id: str | None
    customer_id: str | None
    anchor_day: int
    created_at: datetime
    keys: tuple[KeyShown, ...] = ()


@dataclass(frozen=True, slots=True)
class Created:
    """An account that is done. `key` is there for the call that finished it alone."""

    account: Account
    secret_id: str
    key: str | None
