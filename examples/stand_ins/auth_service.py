"""A stand-in for the authentication service: it takes credentials and issues the token that Meterline verifies.

The one thing that it shares with Meterline is the secret JWT_ACCESS_SECRET. A real one keeps hashes of passwords and much more.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import jwt
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

TOKEN_LIVES_S: Final = 900


@dataclass(frozen=True)
class Person:
    """Somebody who may sign in."""

    user_id: str
    password: str
    email: str
    tenant_id: str
    role: str = "user"


class Credentials(BaseModel):
    """What somebody signs in with."""

    username: str
    password: str


class Issued(BaseModel):
    """A token, for the header `Authorization: Bearer`."""

    access_token: str
    expires_in: int


def create_auth_service(secret: str, people: Mapping[str, Person]) -> FastAPI:
    """The service; `people` by user name."""
    app = FastAPI(title="Stand-in authentication service")

    @app.post("/api/auth/login")
    def login(credentials: Credentials) -> Issued:
        person = people.get(credentials.username)
        if person is None or not hmac.compare_digest(person.password.encode(), credentials.password.encode()):
            raise HTTPException(401, "Wrong user name or password.")
        now = int(time.time())
        claims = {
            "sub": person.user_id,
            "username": credentials.username,
            "email": person.email,
            "role": person.role,
            "tenantId": person.tenant_id,
            "iat": now,
            "exp": now + TOKEN_LIVES_S,
        }
        return Issued(access_token=jwt.encode(claims, secret, "HS256"), expires_in=TOKEN_LIVES_S)

    return app
