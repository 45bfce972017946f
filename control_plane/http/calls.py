"""One call of the HTTP surface: who asks, under which id, and the units of work that it may open."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Request

from access.principals import Principal, require_tenant, sees_tenant
from control_plane.http.envelope import Answer
from control_plane.http.once import Once
from control_plane.parts import Parts
from control_plane.refusals import Refusal, not_found
from control_plane.unit import Actor, Unit

KEY_CHARACTERS_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was let in. Endpoints run in threads, and take it first: `call: Here`."""

    principal: Principal
    request_id: str
    parts: Parts
    idempotency_key: str | None
    """The client's own, of this principal alone; None where it sent none."""
    fingerprint: bytes
    """What was asked, as a hash of method, path and body."""

    @property
    def actor(self) -> Actor:
        return Actor(f"{self.principal.kind}:{self.principal.name}", self.request_id)

    @contextmanager
    def unit(self) -> Iterator[Unit]:
        """One transaction of this call, committed when the block ends."""
        with self.parts.units.begin(self.actor) as unit:
            yield unit

    def once(self, act: Callable[[], Answer]) -> Answer:
        """What `act` answers, and the same again for every repetition under this call's Idempotency-Key.

        Without a key it acts each time. A refusal is not kept: nothing was made. `act` may run again where the process ended
        inside it, so what it asks of others must be repeatable: `key_for` gives it keys that stay the same.
        Raises Refusal: the key belongs to another request, or the same one is under way.
        """
        if self.idempotency_key is None:
            return act()
        return Once(self.parts.units, self.actor, self.idempotency_key, self.fingerprint).answer(act)

    def key_for(self, purpose: str) -> str:
        """A key for one call to somebody else: the same when this request is repeated under its Idempotency-Key, else new."""
        base = self.idempotency_key or self.request_id
        return hashlib.sha256(f"{purpose}\n{self.actor.who}\n{base}".encode() + self.fingerprint).hexdigest()

    def require_tenant(self, tenant_id: str) -> None:
        """Raises AccessRefused 404 for a tenant out of this principal's scope."""
        require_tenant(self.principal, tenant_id)

    def own(self, tenant_id: str, what: str) -> None:
        """For something that was looked up: raises the Refusal of something that does not exist where it is another tenant's."""
        if not sees_tenant(self.principal, tenant_id):
            raise not_found(what)

    def tenant(self, asked: str | None = None) -> str:
        """The tenant that is meant: the principal's own, or the one asked for where it is in scope.

        Raises AccessRefused 404; Refusal for a principal that sees every tenant and names none.
        """
        tenant_id = self.principal.tenant_id if asked is None else asked
        if tenant_id is None:
            raise Refusal("invalid", "tenant_required", "These credentials see every tenant; say which one is meant.")
        self.require_tenant(tenant_id)
        return tenant_id


def here(request: Request) -> Call:
    """The call of this request, which its route has let in already."""
    call = request.state.call
    assert isinstance(call, Call)
    return call


Here = Annotated[Call, Depends(here)]
