"""How credentials become a principal: one verifier a kind of credential, asked in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from access.principals import AccessRefused, Principal
from store.service_secrets import EVERY_SERVICE

RawHeaders = Sequence[tuple[bytes, bytes]]
"""As ASGI gives them: names in lower case. gRPC metadata takes the same form."""


class Verifier(Protocol):
    """Knows one kind of credential."""

    @property
    def presents(self) -> str:
        """The header it reads, for the answer to a request without credentials."""
        ...

    async def configured(self) -> bool:
        """Whether anybody could pass. Raises AccessRefused 503 when that cannot be known now."""
        ...

    async def verify(self, headers: RawHeaders) -> Principal | None:
        """The principal; None when the request carries no credential of this kind.

        Raises AccessRefused: 401 when the credential is wrong, 503 when it cannot be verified now. A wrong credential is
        never passed on to the next verifier.
        """
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

    def __init__(self, verifiers: Sequence[Verifier]) -> None:
        self._verifiers = tuple(verifiers)

    async def configured(self) -> bool:
        """Whether at least one verifier could let somebody in."""
        for verifier in self._verifiers:
            if await verifier.configured():
                return True
        return False

    async def principal(self, headers: RawHeaders) -> Principal:
        """Who asks. Raises AccessRefused: 401 without or with wrong credentials, 503 when nobody can say now."""
        for verifier in self._verifiers:
            principal = await verifier.verify(headers)
            if principal is not None:
                return principal
        wanted = " or ".join(verifier.presents for verifier in self._verifiers) or "credentials"
        raise AccessRefused(401, "no_credentials", f"Send {wanted}.")


class DevVerifier:
    """Lets everybody in who shows nothing, as one service that may do everything. For `--dev` on loopback only.

    It stands last, so that a wrong secret is still a wrong secret.
    """

    presents = "nothing (this server runs with --dev)"
    _PRINCIPAL = Principal("service", "dev", source_services=frozenset({EVERY_SERVICE}))

    async def configured(self) -> bool:
        return True

    async def verify(self, headers: RawHeaders) -> Principal | None:
        return self._PRINCIPAL
