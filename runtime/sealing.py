"""Secrets at rest that must be readable again: AES-256-GCM under keys of the keyring, each bound to where it belongs.

What is sealed names the key by an id that tells nothing of it, so that after a rotation it is known what is still under an
older one. The place it belongs to is authenticated with it: a row that was copied to another tenant does not open there.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runtime.keyring import Keyring

ALGORITHM: Final = "AES-256-GCM"
NONCE_BYTES: Final = 12
KEY_ID_CHARACTERS: Final = 16


class Unopenable(Exception):
    """It was sealed under a key that is not in the keyring, for another place, or was changed since."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is kept."""

    key_id: str
    nonce: bytes
    ciphertext: bytes
    """With the authentication tag at its end."""


def key_ids(keyring: Keyring, purpose: str) -> tuple[str, ...]:
    """The ids of the purpose's keys, the newest first. Derived apart from the keys, so that they give nothing of them away."""
    return tuple(key.hex()[:KEY_ID_CHARACTERS] for key in keyring.keys(f"{purpose}: id"))


def seal(keyring: Keyring, purpose: str, plaintext: bytes, place: Sequence[str]) -> Sealed:
    """Under the newest key. `place`: the ids of the row that it will stand in."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    ciphertext = AESGCM(keyring.keys(purpose)[0]).encrypt(nonce, plaintext, _place(place))
    return Sealed(key_ids(keyring, purpose)[0], nonce, ciphertext)


def unseal(keyring: Keyring, purpose: str, sealed: Sealed, place: Sequence[str]) -> bytes:
    """Raises Unopenable."""
    for key_id, key in zip(key_ids(keyring, purpose), keyring.keys(purpose), strict=True):
        if key_id == sealed.key_id:
            try:
                return AESGCM(key).decrypt(sealed.nonce, sealed.ciphertext, _place(place))
            except InvalidTag:
                raise Unopenable("it does not belong to this place, or was changed") from None
    raise Unopenable(
        f"the key {sealed.key_id} that it was sealed with is not in METERLINE_SECRET_ENCRYPT_KEY; add its secret again"
    )


def _place(parts: Sequence[str]) -> bytes:
    """Netstrings, so that no two lists of ids give the same bytes."""
    return b"".join(b"%d:%s," % (len(raw), raw) for raw in (part.encode() for part in parts))
