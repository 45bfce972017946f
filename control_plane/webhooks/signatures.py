"""Whether a webhook is from whom it says: the three senders' signatures over the bytes as they came. Pure.

Several secrets may be in force: while one replaces another, each is tried. A time that lies too far off is refused on both
sides: an old one because somebody may have recorded it, one ahead because it could be kept for later.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final

TOLERANCE_S: Final = 300
HEADER_CHARS_MAX: Final = 4_096
SIGNATURES_MAX: Final = 16
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


class BadSignature(Exception):
    """Nothing of the webhook may be believed. `code` is for programs; the message shows neither secret nor signature."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def check_stripe(header: str | None, body: bytes, secrets: Sequence[str], now: float) -> None:
    """`Stripe-Signature: t=...,v1=...`. Any v1 by any secret will do. Raises BadSignature."""
    parts = [part.partition("=") for part in _present("Stripe-Signature", header).split(",")]
    times = [value for name, _, value in parts if name.strip() == "t"]
    if len(times) != 1:
        raise BadSignature("bad_signature", "Stripe-Signature has no time t, or several; send it as Stripe made it.")
    at = _seconds(times[0])
    signed = b"%d.%s" % (at, body)
    wanted = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    _one_of(wanted, [value for name, _, value in parts if name.strip() == "v1"])
    _timely(at, now)


def check_svix(
    message_id: str | None, at_text: str | None, header: str | None, body: bytes, keys: Sequence[bytes], now: float
) -> None:
    """Clerk's, by Svix: `svix-id`, `svix-timestamp`, `svix-signature: v1,<base64> ...`. Raises BadSignature."""
    given = _present("svix-signature", header).split(" ")
    at = _seconds(_present("svix-timestamp", at_text))
    signed = b"%s.%d.%s" % (_present("svix-id", message_id).encode(), at, body)
    wanted = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    _one_of(wanted, [value.removeprefix("v1,") for value in given if value.startswith("v1,")])
    _timely(at, now)


def check_lago(algorithm: str | None, header: str | None, body: bytes, secrets: Sequence[str]) -> None:
    """Lago's `X-Lago-Signature` with algorithm hmac, which signs no time: a recorded one verifies for ever, and all that
    a repeat causes is that an object is looked at again. Raises BadSignature."""
    given = _present("X-Lago-Signature", header)
    if algorithm != "hmac":
        raise BadSignature(
            "bad_signature", "X-Lago-Signature-Algorithm is not hmac; set the webhook endpoint's signature to hmac in Lago."
        )
    _one_of([base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode() for secret in secrets], [given.strip()])


def svix_key(secret: str) -> bytes:
    """The key in `whsec_<base64>`. Raises ValueError."""
    if not secret.startswith("whsec_"):
        raise ValueError("want whsec_ and base64")
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise ValueError("want whsec_ and base64") from None


def _present(name: str, value: str | None) -> str:
    if not value or len(value) > HEADER_CHARS_MAX or not value.isascii():
        raise BadSignature("bad_signature", f"{name} is missing or no header of the sender's; it says who sends.")
    return value


def _seconds(text: str) -> int:
    if _SECONDS.fullmatch(text.strip()) is None:
        raise BadSignature("bad_signature", "The time beside the signature is no number of seconds.")
    return int(text)


def _one_of(wanted: Sequence[str], given: Sequence[str]) -> None:
    """Every pair is compared, so that the time taken says nothing about which was near."""
    found = False
    for signature in given[:SIGNATURES_MAX]:
        for right in wanted:
            found |= hmac.compare_digest(signature.encode(), right.encode())
    if not found:
        raise BadSignature(
            "wrong_signature", "The signature is not made with a secret of ours; set the endpoint's signing secret."
        )


def _timely(at: int, now: float) -> None:
    if abs(now - at) > TOLERANCE_S:
        raise BadSignature(
            "stale_signature", f"The signature's time is more than {TOLERANCE_S} s off; check both clocks. It is not taken late."
        )
