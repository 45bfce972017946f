"""Tokens as their issuers make them, right and wrong, and a Clerk instance's keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

USER_SECRET = "the secret that the authentication service shares with this one"
ISSUER = "https://clerk.example"
ORIGIN = "https://app.example"


@cache
def clerk_key(name: str) -> RSAPrivateKey:
    """A signing key of the instance; the same one for the same name, as making one takes time."""
    return generate_private_key(65537, 2048)


def pem_of(key: RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def key_set(*names: str) -> bytes:
    """As an instance publishes it."""
    listed = [
        {**RSAAlgorithm.to_jwk(clerk_key(name).public_key(), as_dict=True), "kid": name, "use": "sig", "alg": "RS256"}
        for name in names
    ]
    return json.dumps({"keys": listed}).encode()


def _times(expires_s: float) -> dict[str, Any]:
    now = int(time.time())
    return {"iat": now, "nbf": now - 10, "exp": now + expires_s}


def user_token(subject: str = "u1", *, secret: str = USER_SECRET, expires_s: float = 60, **claims: Any) -> str:
    """A claim that is None is left out."""
    made = {"sub": subject, "username": "ada", "email": "ada@example.com", "role": "user", **_times(expires_s), **claims}
    return jwt.encode({name: value for name, value in made.items() if value is not None}, secret, "HS256")


def clerk_token(
    organization: str | None = None, role: str = "member", *, key: str = "one", expires_s: float = 60, **claims: Any
) -> str:
    """Version 2 of the claims, signed by the key of that name."""
    made: dict[str, Any] = {"sub": "user_1", "iss": ISSUER, "azp": ORIGIN, "v": 2, **_times(expires_s)}
    if organization is not None:
        made["o"] = {"id": organization, "rol": role, "slg": "org"}
    made |= claims
    kept = {name: value for name, value in made.items() if value is not None}
    return jwt.encode(kept, clerk_key(key), "RS256", headers={"kid": key})


def unsigned_token(**claims: Any) -> str:
    """`alg: none`."""
    return jwt.encode({"sub": "u1", "role": "admin", **_times(60), **claims}, "", "none")


def signed_with_the_public_key(**claims: Any) -> str:
    """HS256 over the public key's text: what passes where a token may choose its algorithm."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    body = {"sub": "u1", "role": "admin", "iss": ISSUER, **_times(60), **claims}
    signed = part(b'{"alg":"HS256","typ":"JWT","kid":"one"}') + b"." + part(json.dumps(body).encode())
    signature = hmac.digest(pem_of(clerk_key("one")).encode(), signed, hashlib.sha256)
    return (signed + b"." + part(signature)).decode()
