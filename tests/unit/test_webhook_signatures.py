"""A webhook is believed when its signature, its time and its form are right, and for nothing less."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.webhooks.messages import BadMessage, clerk_message, lago_message, stripe_message
from control_plane.webhooks.signatures import (
    TOLERANCE_S,
    BadSignature,
    check_lago,
    check_stripe,
    check_svix,
    svix_key,
)
from control_plane.webhooks.worker import WAITS_S, wait_after
from tests.fakes.webhook_senders import clerk_headers, stripe_header

NOW = 1_795_000_000
OLD, NEW, OTHER = "whsec_old", "whsec_new", "whsec_other"
BODY = b'{"id":"evt_1"}'
KEYS = [base64.b64encode(letter * 32).decode() for letter in (b"a", b"b")]
SVIX_OLD, SVIX_NEW = (f"whsec_{key}" for key in KEYS)


@pytest.mark.parametrize("signer", [OLD, NEW])
def test_while_a_secret_is_changed_both_are_taken(signer: str) -> None:
    check_stripe(stripe_header(BODY, signer, NOW), BODY, [NEW, OLD], NOW)


def test_any_of_several_signatures_will_do() -> None:
    right = stripe_header(BODY, OLD, NOW).partition("v1=")[2]
    check_stripe(f"t={NOW},v0=old-scheme,v1={'0' * 64},v1={right}", BODY, [OLD], NOW)


@pytest.mark.parametrize("off", [-TOLERANCE_S, 0, TOLERANCE_S])
def test_a_time_is_taken_up_to_the_tolerance_on_both_sides(off: int) -> None:
    check_stripe(stripe_header(BODY, OLD, NOW + off), BODY, [OLD], NOW)
    headers = clerk_headers(BODY, SVIX_OLD, NOW + off)
    check_svix(headers["svix-id"], headers["svix-timestamp"], headers["svix-signature"], BODY, [svix_key(SVIX_OLD)], NOW)


@pytest.mark.parametrize("off", [-TOLERANCE_S - 1, TOLERANCE_S + 1, 10 * 365 * 86_400])
def test_an_old_time_and_one_ahead_are_refused(off: int) -> None:
    with pytest.raises(BadSignature) as refused:
        check_stripe(stripe_header(BODY, OLD, NOW + off), BODY, [OLD], NOW)
    assert refused.value.code == "stale_signature"
    headers = clerk_headers(BODY, SVIX_OLD, NOW + off)
    with pytest.raises(BadSignature):
        check_svix(headers["svix-id"], headers["svix-timestamp"], headers["svix-signature"], BODY, [svix_key(SVIX_OLD)], NOW)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"t={NOW}",
        "v1=" + "0" * 64,
        f"t=soon,v1={'0' * 64}",
        f"t=-5,v1={'0' * 64}",
        f"t={NOW},t={NOW},v1={'0' * 64}",
        f"t={NOW},v1=ü",
        f"t={NOW},v1=" + "0" * 5_000,
        f"t={'9' * 30},v1={'0' * 64}",
    ],
)
def test_a_header_that_is_none_of_stripes_is_refused(header: str | None) -> None:
    with pytest.raises(BadSignature):
        check_stripe(header, BODY, [OLD], NOW)


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_a_body_that_was_changed_in_one_byte_is_refused(at: int, by: int) -> None:
    changed = bytearray(BODY)
    changed[at] ^= by
    with pytest.raises(BadSignature) as refused:
        check_stripe(stripe_header(BODY, OLD, NOW), bytes(changed), [OLD], NOW)
    assert refused.value.code == "wrong_signature"


def test_a_secret_of_nobody_and_no_secret_let_nothing_in() -> None:
    for secrets in ([OTHER], []):
        with pytest.raises(BadSignature):
            check_stripe(stripe_header(BODY, OLD, NOW), BODY, secrets, NOW)


@pytest.mark.parametrize("signer", [SVIX_OLD, SVIX_NEW])
def test_clerks_signature_is_over_its_id_and_time_too(signer: str) -> None:
    headers = clerk_headers(BODY, signer, NOW, message_id="msg_1")
    keys = [svix_key(SVIX_NEW), svix_key(SVIX_OLD)]
    check_svix("msg_1", headers["svix-timestamp"], headers["svix-signature"], BODY, keys, NOW)
    for message_id, at in (("msg_2", headers["svix-timestamp"]), ("msg_1", str(NOW + 1)), (None, headers["svix-timestamp"])):
        with pytest.raises(BadSignature):
            check_svix(message_id, at, headers["svix-signature"], BODY, keys, NOW)


def test_lagos_signature_is_taken_for_hmac_only() -> None:
    signature = base64.b64encode(hmac.new(OLD.encode(), BODY, hashlib.sha256).digest()).decode()
    check_lago("hmac", signature, BODY, [NEW, OLD])
    for algorithm, given_signature in (("jwt", signature), (None, signature), ("hmac", None), ("hmac", signature[:-2] + "AA")):
        with pytest.raises(BadSignature):
            check_lago(algorithm, given_signature, BODY, [OLD])


@pytest.mark.parametrize("secret", ["", "whsec", KEYS[0], "whsec_%%%"])
def test_a_secret_of_svix_has_its_form(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and base64"):
        svix_key(secret)


def test_of_a_stripe_event_the_objects_id_is_kept_and_nothing_else_of_it() -> None:
    card = {"id": "pm_1", "card": {"last4": "4242", "fingerprint": "Xt5", "exp_year": 2030}, "billing_details": {"name": "Ada"}}
    event = {"object": "event", "id": "evt_1", "type": "payment_method.attached", "livemode": False, "data": {"object": card}}
    message = stripe_message(json.dumps(event).encode())
    assert (message.id, message.kind, message.subject, message.livemode) == ("evt_1", "payment_method.attached", "pm_1", False)
    assert message.kept == {"id": "pm_1"}


def test_a_thin_event_names_its_object() -> None:
    event = {
        "object": "v2.core.event",
        "id": "evt_2",
        "type": "v1.billing.meter.no_meter_found",
        "livemode": False,
        "related_object": None,
    }
    assert stripe_message(json.dumps(event).encode()).subject == ""


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        (stripe_message, b"\xff\xfe"),
        (stripe_message, b"{"),
        (stripe_message, b"[]"),
        (stripe_message, b"[" * 100_000),
        (stripe_message, b'{"object":"invoice","id":"in_1"}'),
        (stripe_message, b'{"object":"event","id":"evt_1","type":"x","livemode":"no"}'),
        (stripe_message, b'{"object":"event","id":7,"type":"x","livemode":false}'),
        (stripe_message, b'{"object":"event","id":"evt_1\\u0000","type":"x","livemode":false}'),
        (stripe_message, b'{"object":"event","id":"' + b"e" * 300 + b'","type":"x","livemode":false}'),
        (lambda body: clerk_message(body, "msg_1"), b'{"type":"user.created","data":[]}'),
        (lambda body: clerk_message(body, "msg_1"), b'{"type":"user.created","data":{"id":"user_1","updated_at":"now"}}'),
        (lambda body: clerk_message(body, "msg_1"), b'{"type":"organizationMembership.created","data":{"id":"om_1"}}'),
        (lambda body: lago_message(body, "key"), b'{"object_type":"invoice"}'),
    ],
)
def test_what_is_signed_and_no_message_is_refused_with_the_reason(parse: Callable[[bytes], Any], body: bytes) -> None:
    with pytest.raises(BadMessage) as bad:
        parse(body)
    assert str(bad.value)


def test_waits_grow_and_end() -> None:
    waits = [wait_after(attempts) for attempts in range(1, len(WAITS_S) + 2)]
    assert waits[-1] is None
    assert waits[:-1] == sorted(wait for wait in waits if wait is not None)
