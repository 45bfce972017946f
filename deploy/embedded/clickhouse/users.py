"""Who asks: two users at most, one who may write and one who may only read."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy.embedded.clickhouse.failures import Failure


@dataclass(frozen=True, slots=True)
class User:
    name: str
    password: str = field(repr=False)
    readonly: bool = False


class Users:
    """Checks names and passwords in constant time."""

    def __init__(self, users: tuple[User, ...]) -> None:
        self._users = {user.name: user for user in users}

    def identify(self, headers: Mapping[str, str], parameters: Mapping[str, str]) -> User:
        """The user whose name and password the request carries. Raises Failure (194 with 401, or 516 with 403)."""
        name, password = self._credentials(headers, parameters)
        if name is None:
            raise Failure(194, "Authentication is required: send Basic credentials or X-ClickHouse-User and X-ClickHouse-Key")
        user = self._users.get(name)
        # An unknown name costs the same comparison as a wrong password.
        expected = user.password if user is not None else next(iter(self._users.values())).password
        if not hmac.compare_digest(expected.encode(), password.encode()) or user is None:
            shown = name[:64]
            raise Failure(516, f"{shown}: Authentication failed: password is incorrect, or there is no user with such name.")
        return user

    @staticmethod
    def _credentials(headers: Mapping[str, str], parameters: Mapping[str, str]) -> tuple[str | None, str]:
        if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
            return headers.get("x-clickhouse-user", "default"), headers.get("x-clickhouse-key", "")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                decoded = base64.b64decode(token.strip(), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                raise Failure(516, "Authentication failed: the Basic credentials cannot be read") from None
            name, _, password = decoded.partition(":")
            return name, password
        if scheme:
            raise Failure(516, f"Authentication failed: the scheme {scheme[:32]!r} is not known here, use Basic")
        if "user" in parameters or "password" in parameters:
            return parameters.get("user", "default"), parameters.get("password", "")
        return None, ""
