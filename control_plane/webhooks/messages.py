"""What a verified webhook is about. Pure.

Only what the work needs is kept: of Stripe and Lago the object's id, for it is fetched again; of Clerk the few fields that are
synced. So whatever else a sender puts in (addresses, what is on a card) is never stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Source = Literal["stripe", "clerk", "lago"]

TEXT_CHARS_MAX: Final = 255
EMAIL_CHARS_MAX: Final = 320


class BadMessage(Exception):
    """It is signed and still no message of this sender; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Message:
    """A webhook, as far as it matters. (source, account, livemode, id) names it for ever."""

    source: Source
    account: str
    """Which of the sender's accounts, where the sender says so; else empty."""
    livemode: bool
    id: str
    kind: str
    subject: str
    """The id of what it is about; empty where it names nothing."""
    kept: Mapping[str, Any]
    """What of its content the work needs."""


def stripe_message(body: bytes) -> Message:
    """An event of Stripe, whole or thin. Raises BadMessage."""
    document = _document(body)
    form = document.get("object")
    if form == "event":
        data = document.get("data")
        thing = data.get("object") if isinstance(data, dict) else None
    elif form == "v2.core.event":
        thing = document.get("related_object")
    else:
        raise BadMessage("`object` is neither event nor v2.core.event")
    live = document.get("livemode")
    if not isinstance(live, bool):
        raise BadMessage("`livemode` is not true or false")
    thing = thing if isinstance(thing, dict) else {}
    subject = _text(thing, "id", required=False)
    return Message(
        "stripe",
        _text(document, "account", required=False),
        live,
        _text(document, "id"),
        _text(document, "type"),
        subject,
        {"id": subject},
    )


def clerk_message(body: bytes, message_id: str) -> Message:
    """An event of Clerk, named by its `svix-id`. Raises BadMessage."""
    document = _document(body)
    data = document.get("data")
    if not isinstance(data, dict):
        raise BadMessage("`data` is no object")
    kind = _text(document, "type")
    noun, _, what = kind.partition(".")
    keep = _CLERK_KEEPS.get(noun)
    kept = {} if keep is None or what == "deleted" else keep(data)
    return Message("clerk", _text(document, "instance_id", required=False), False, message_id, kind, _text(data, "id"), kept)


def lago_message(body: bytes, message_id: str) -> Message:
    """An event of Lago, named by its `X-Lago-Unique-Key`. Raises BadMessage."""
    document = _document(body)
    kind, of = _text(document, "webhook_type"), _text(document, "object_type", required=False)
    thing = document.get(of)
    thing = thing if isinstance(thing, dict) else {}
    # What has an id of ours goes by it in Lago's own API; an invoice goes by Lago's.
    subject = _text(thing, "external_id", required=False) or _text(thing, "lago_id", required=False)
    return Message("lago", "", False, message_id, kind, subject, {"id": subject})


def _organization(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": _text(data, "name", required=False), **_version(data)}


def _user(data: Mapping[str, Any]) -> dict[str, Any]:
    name = " ".join(part for key in ("first_name", "last_name") if (part := _text(data, key, required=False)))
    return {"username": _text(data, "username", required=False) or name, "email": _primary_email(data), **_version(data)}


def _membership(data: Mapping[str, Any]) -> dict[str, Any]:
    organization, user = data.get("organization"), data.get("public_user_data")
    if not isinstance(organization, dict) or not isinstance(user, dict):
        raise BadMessage("a membership names an organization and a user")
    since_ms = _at_ms(data, "created_at")
    return {"organization": _text(organization, "id"), "user": _text(user, "user_id"), "since_ms": since_ms, **_version(data)}


_CLERK_KEEPS: Final[dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "organization": _organization,
    "user": _user,
    "organizationMembership": _membership,
}


def _version(data: Mapping[str, Any]) -> dict[str, Any]:
    """When it was changed: of two states of one thing the later counts."""
    return {"at_ms": _at_ms(data, "updated_at")}


def _at_ms(data: Mapping[str, Any], name: str) -> int:
    at = data.get(name)
    if not isinstance(at, int) or isinstance(at, bool) or not 0 < at < 1 << 53:
        raise BadMessage(f"`{name}` is no time in milliseconds")
    return at


def _primary_email(data: Mapping[str, Any]) -> str | None:
    listed = data.get("email_addresses")
    wanted = data.get("primary_email_address_id")
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and wanted is not None and one.get("id") == wanted:
            return _text(one, "email_address", chars_max=EMAIL_CHARS_MAX)
    return None


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadMessage("the body is not UTF-8") from None
    except (ValueError, RecursionError):
        raise BadMessage("the body is no JSON") from None
    if not isinstance(document, dict):
        raise BadMessage("the body is no object")
    return document


def _text(thing: Mapping[str, Any], name: str, *, required: bool = True, chars_max: int = TEXT_CHARS_MAX) -> str:
    value = thing.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or not (value or not required) or len(value) > chars_max or not value.isprintable():
        raise BadMessage(f"`{name}` is no text of 1 to {chars_max} printable characters")
    return value
