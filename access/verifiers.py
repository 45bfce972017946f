"""How credentials become a principal: one verifier a header, asked in order, and a bound on how often each may ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from access.principals import AccessRefused, Principal
from store.service_secrets import EVERY_SERVICE

RawHeaders = Sequence[tuple[bytes, bytes]]
"""As ASGI gives them: names in lower case. gRPC metadata takes the same form."""


class Verifier(Protocol):
    """Knows one header."""

    @property
    def presents(self) -> str:
        """The header it reads, for the answer to a request without credentials."""
        ...

    async def configured(self) -> bool:
        """Whether anybody could pass. Raises AccessRefused 503 when that cannot be known now."""
        ...

    async def verify(self, headers: RawHeaders) -> Principal | None:
        """The principal; None when the request does not carry the header.

        Raises AccessRefused: 401 when the credential is wrong, 403 when it is right and belongs nowhere, 503 when it
        cannot be verified now. A wrong credential is never passed on to the next verifier.
        """
        ...


class Admits(Protocol):
    """Bounds how often a principal may ask."""

    def admit(self, principal: Principal) -> None:
        """Raises AccessRefused 429."""
        ...


def only_header(headers: RawHeaders, name: bytes) -> bytes | None:
    """The header's value; None when it is absent. Raises 401 when it is there twice: which one would count?"""
    found: bytes | None = None
    for key, value in headers:
        if key == name:
            if found is not None:
                raise AccessRefused(401, "bad_credentials", f"The header {name.decode()} is there twice; send it once.")
            found = value
    return found


class Gate:
    """Lets in whom one of its verifiers knows."""

    def __init__(self, verifiers: Sequence[Verifier], limits: Admits | None = None, *, dev: bool = False) -> None:
        """`dev` lets in who shows nothing, as one service that may do everything: for `--dev` on loopback only."""
        self._verifiers = tuple(verifiers)
        self._limits = limits
        self._dev = dev

    async def configured(self) -> bool:
        """Whether at least one verifier could let somebody in."""
        if self._dev:
            return True
        for verifier in self._verifiers:
            if await verifier.configured():
                return True
        return False

    async def principal(self, headers: RawHeaders) -> Principal:
        """Who asks. Raises AccessRefused: 401 without or with wrong credentials, 429 too often, 503 nobody can say now.

        Credentials of two kinds are refused: whose rights would count?
        """
        found: Principal | None = None
        for verifier in self._verifiers:
            principal = await verifier.verify(headers)
            if principal is not None and found is not None:
                raise AccessRefused(401, "bad_credentials", "The request carries two kinds of credentials; send one.")
            found = principal or found
        if found is None and self._dev:
            return _DEVELOPER
        if found is None:
            wanted = " or ".join(verifier.presents for verifier in self._verifiers) or "credentials"
            raise AccessRefused(401, "no_credentials", f"Send {wanted}.")
        if self._limits is not None:
            self._limits.admit(found)
        return found


_DEVELOPER = Principal("service", "dev", source_services=frozenset({EVERY_SERVICE}))
