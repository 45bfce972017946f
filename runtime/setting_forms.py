"""The forms of settings that are texts: addresses, keys, levels. Each returns the value, or raises ValueError, which the
settings tell under the variable's name; none shows a secret."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from pydantic import SecretStr


def level(value: object) -> object:
    """In lower case; other services of the field write warn."""
    if isinstance(value, str):
        value = value.lower()
        return "warning" if value == "warn" else value
    return value


def brokers(value: str) -> str:
    """host:port, several separated by commas."""
    for address in value.split(","):
        if not _has_host_and_port(address.strip()):
            raise ValueError(f"{address.strip()!r} is not host:port; write several as host:port,host:port")
    return value


def http_address(value: str | None) -> str | None:
    """An http or https URL."""
    if value is not None and not _is_url(value, "http", "https"):
        raise ValueError("must look like http://host:port/... or https://host/...")
    return value


def webhook_address(value: str | None) -> str | None:
    """Where something is posted to: https, or http on this machine."""
    if value is None:
        return None
    url = urlsplit(value)
    local = url.hostname in ("localhost", "127.0.0.1", "::1")
    if not _is_url(value, "https", "http") or (url.scheme == "http" and not local):
        raise ValueError("must look like https://host/...; http goes to this machine only")
    if "@" in url.netloc or url.fragment:
        raise ValueError("holds no user, password or fragment; the signature says who posts")
    return value


def postgres_address(value: SecretStr) -> SecretStr:
    """A URL; the other form that libpq takes is left to it: "host=... dbname=...". The message never shows the password."""
    text = value.get_secret_value()
    if not (_is_url(text, "postgresql", "postgres") or ("=" in text and "://" not in text)):
        raise ValueError("must look like postgresql://user:password@host:port/database")
    return value


def long_key(value: SecretStr | None) -> SecretStr | None:
    """A key that nobody guesses."""
    if value is not None and len(value.get_secret_value().encode()) < 32:
        raise ValueError("must have 32 bytes at least; `openssl rand -hex 32` makes one")
    return value


def webhook_secrets(value: SecretStr | None) -> SecretStr | None:
    """One or two in the form of Standard Webhooks."""
    if value is not None:
        webhook_keys(value)
    return value


def webhook_keys(secrets: SecretStr) -> tuple[bytes, ...]:
    """What such secrets sign with. Raises ValueError, without a secret in it."""
    keys = []
    for text in secrets.get_secret_value().split(","):
        try:
            key = base64.b64decode(text.strip().removeprefix("whsec_"), validate=True)
        except ValueError:
            key = b""
        if not text.strip().startswith("whsec_") or not 24 <= len(key) <= 64:
            raise ValueError("want whsec_ and base64 of 24 to 64 bytes: `echo whsec_$(openssl rand -base64 32)` makes one")
        keys.append(key)
    if len(keys) > 2:
        raise ValueError("want one secret, or two while one replaces the other")
    return tuple(keys)


def _is_url(text: str, *schemes: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in schemes and (url.port is None or url.port > 0) and (bool(url.hostname) or "postgresql" in schemes)
    except ValueError:
        # A port that is no number; several hosts, which libpq takes, are left to it.
        return "postgresql" in schemes and text.startswith(tuple(f"{scheme}://" for scheme in schemes)) and "," in text


def _has_host_and_port(text: str) -> bool:
    try:
        url = urlsplit(f"//{text}")
        return bool(url.hostname) and bool(url.port) and url.netloc == text and "@" not in text
    except ValueError:
        return False
