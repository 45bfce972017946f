"""Keys for what is kept secret at rest, derived from one setting that can be rotated.

`METERLINE_SECRET_ENCRYPT_KEY` holds one secret, or several separated by commas, the newest first: new things are made with
the newest, and what was made with an older one is still understood until it has been made anew.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from runtime.settings import Settings, SettingsError

SECRET_CHARACTERS_MIN: Final = 16
SECRETS_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Keyring:
    """The secrets, the newest first. Shows none of them."""

    _secrets: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Keyring({len(self._secrets)} secrets)"

    def keys(self, purpose: str) -> tuple[bytes, ...]:
        """A key of 32 bytes from each secret, for this purpose alone, the newest first."""
        return tuple(_derived(secret, purpose) for secret in self._secrets)


def keyring(settings: Settings) -> Keyring | None:
    """The keyring of the settings; None when none is set. Raises SettingsError."""
    if settings.secret_encrypt_key is None:
        return None
    secrets = [secret.strip() for secret in settings.secret_encrypt_key.get_secret_value().split(",")]
    if len(secrets) > SECRETS_MAX or any(len(secret) < SECRET_CHARACTERS_MIN for secret in secrets):
        raise SettingsError(
            f"METERLINE_SECRET_ENCRYPT_KEY: want 1 to {SECRETS_MAX} secrets of {SECRET_CHARACTERS_MIN} characters or more, "
            "separated by commas, the newest first"
        )
    return Keyring(tuple(secret.encode() for secret in secrets))


def _derived(secret: bytes, purpose: str) -> bytes:
    """HKDF with SHA-256, one block."""
    extracted = hmac.digest(b"meterline", secret, hashlib.sha256)
    return hmac.digest(extracted, purpose.encode() + b"\x01", hashlib.sha256)
