"""Coupons, the promotion codes that give them, and what of them a subscription or an invoice holds."""

from __future__ import annotations

import re
import secrets
from decimal import Decimal

from deploy.embedded.local_stripe import events, forms, metadata, objects
from deploy.embedded.local_stripe.catalog import IDENTIFIER
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.paging import PAGING
from deploy.embedded.local_stripe.problems import Answer, Problem, missing, wrong
from deploy.embedded.local_stripe.state import State

_PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,2})?")
_CODE = re.compile(r"[A-Za-z0-9_-]{1,200}")
_COUPON = (
    "id", "percent_off", "amount_off", "currency", "duration", "duration_in_months", "max_redemptions", "redeem_by", "name",
    "metadata", "applies_to",
)  # fmt: skip


def create_coupon(state: State, params: forms.Params) -> Answer:
    """POST /v1/coupons"""
    forms.only(params, _COUPON)
    identifier = forms.text_of(params, "id") or secrets.token_hex(4)
    if IDENTIFIER.fullmatch(identifier) is None:
        raise wrong("id", "want letters, digits, _ and -")
    if state.database.execute("SELECT 1 FROM objects WHERE id = ?", (identifier,)).fetchone() is not None:
        raise Problem(f"Coupon already exists: {identifier}", code="resource_already_exists", param="id")
    percent, amount = forms.text_of(params, "percent_off"), forms.integer_of(params, "amount_off")
    if (percent is None) == (amount is None):
        raise Problem("A coupon has either percent_off or amount_off.", param="percent_off")
    if percent is not None and (_PERCENT.fullmatch(percent) is None or not 0 < Decimal(percent) <= 100):
        raise wrong("percent_off", "want more than 0, at most 100, with at most 2 decimals")
    if amount is not None and amount <= 0:
        raise wrong("amount_off", "want more than 0")
    currency = forms.text_of(params, "currency")
    if (amount is not None) != bool(currency):
        raise missing("currency") if amount is not None else wrong("currency", "belongs to amount_off")
    duration = forms.choice_of(params, "duration", ("once", "repeating", "forever")) or "once"
    months = forms.integer_of(params, "duration_in_months")
    if (duration == "repeating") != (months is not None) or (months is not None and months < 1):
        raise wrong("duration_in_months", "belongs to a repeating coupon, 1 or more")
    products = forms.texts_of(forms.inner_of(params, "applies_to"), "products")
    body: Body = {
        "id": identifier,
        "object": "coupon",
        "amount_off": amount,
        "created": state.clock.now(),
        "currency": currency.lower() if currency else None,
        "duration": duration,
        "duration_in_months": months,
        "livemode": False,
        "max_redemptions": _positive(params, "max_redemptions"),
        "metadata": metadata.of(params),
        "name": forms.text_of(params, "name", most=40) or None,
        "percent_off": None if percent is None else _plain(percent),
        "redeem_by": forms.integer_of(params, "redeem_by"),
        "times_redeemed": 0,
        "valid": True,
    }
    if products:
        body["applies_to"] = {"products": products}
    objects.insert(state, "coupon", body)
    events.record(state, "coupon.created", body)
    return Answer(200, body)


def retrieve_coupon(state: State, params: forms.Params, coupon: str) -> Answer:
    """GET /v1/coupons/{id}"""
    forms.only(params, ())
    return Answer(200, _current(state, objects.get(state, "coupon", coupon)))


def update_coupon(state: State, params: forms.Params, coupon: str) -> Answer:
    """POST /v1/coupons/{id}: its name and metadata."""
    forms.only(params, ("name", "metadata"))
    body = objects.get(state, "coupon", coupon)
    before = dict(body)
    if "name" in params:
        body["name"] = forms.text_of(params, "name", most=40) or None
    metadata.change(body, params)
    objects.save(state, body)
    events.record(state, "coupon.updated", body, before)
    return Answer(200, _current(state, body))


def delete_coupon(state: State, params: forms.Params, coupon: str) -> Answer:
    """DELETE /v1/coupons/{id}: nobody gets it any more; who has it keeps it."""
    forms.only(params, ())
    body = objects.get(state, "coupon", coupon)
    objects.remove(state, coupon)
    events.record(state, "coupon.deleted", body)
    return Answer(200, {"id": coupon, "object": "coupon", "deleted": True})


def list_coupons(state: State, params: forms.Params) -> Answer:
    """GET /v1/coupons"""
    forms.only(params, PAGING)
    page = objects.page(state, "coupon", "/v1/coupons", params)
    return Answer(200, {**page, "data": [_current(state, body) for body in page["data"]]})


def create_code(state: State, params: forms.Params) -> Answer:
    """POST /v1/promotion_codes"""
    forms.only(params, ("promotion", "code", "active", "customer", "expires_at", "max_redemptions", "metadata", "restrictions"))
    promotion = forms.map_of(params, "promotion")
    if promotion.get("type") != "coupon" or "coupon" not in promotion:
        raise missing("promotion[coupon]")
    coupon = objects.get(state, "coupon", promotion["coupon"], "promotion[coupon]", 400)
    code = forms.text_of(params, "code") or secrets.token_hex(4).upper()
    if _CODE.fullmatch(code) is None:
        raise wrong("code", "want letters, digits, _ and -")
    if any(one["active"] for one in objects.find(state, "promotion_code", name=code.upper())):
        raise Problem("An active promotion code with this code already exists.", param="code")
    given = forms.inner_of(params, "restrictions")
    forms.only(given, ("first_time_transaction", "minimum_amount", "minimum_amount_currency"))
    body: Body = {
        "id": new_id("promo", 24),
        "object": "promotion_code",
        "active": forms.flag_of(params, "active") is not False,
        "code": code,
        "created": state.clock.now(),
        "customer": forms.text_of(params, "customer"),
        "expires_at": forms.integer_of(params, "expires_at"),
        "livemode": False,
        "max_redemptions": _positive(params, "max_redemptions"),
        "metadata": metadata.of(params),
        "promotion": {"type": "coupon", "coupon": coupon["id"]},
        "restrictions": {
            "first_time_transaction": forms.flag_of(given, "first_time_transaction") is True,
            "minimum_amount": forms.integer_of(given, "minimum_amount"),
            "minimum_amount_currency": forms.text_of(given, "minimum_amount_currency"),
        },
        "times_redeemed": 0,
    }
    objects.insert(state, "promotion_code", body, parent=coupon["id"], name=code.upper(), status=_active(body))
    events.record(state, "promotion_code.created", body)
    return Answer(200, body)


def retrieve_code(state: State, params: forms.Params, code: str) -> Answer:
    """GET /v1/promotion_codes/{id}"""
    forms.only(params, ())
    return Answer(200, objects.get(state, "promotion_code", code))


def update_code(state: State, params: forms.Params, code: str) -> Answer:
    """POST /v1/promotion_codes/{id}: on, off, metadata."""
    forms.only(params, ("active", "metadata"))
    body = objects.get(state, "promotion_code", code)
    before = dict(body)
    if (active := forms.flag_of(params, "active")) is not None:
        body["active"] = active
    metadata.change(body, params)
    objects.save(state, body, status=_active(body))
    events.record(state, "promotion_code.updated", body, before)
    return Answer(200, body)


def list_codes(state: State, params: forms.Params) -> Answer:
    """GET /v1/promotion_codes; `code`, `coupon` and `active` filter."""
    forms.only(params, (*PAGING, "code", "coupon", "active"))
    active, code = forms.flag_of(params, "active"), forms.text_of(params, "code")
    status = None if active is None else ("active" if active else "inactive")
    page = objects.page(
        state, "promotion_code", "/v1/promotion_codes", params,
        name=code.upper() if code else None, parent=forms.text_of(params, "coupon"), status=status,
    )  # fmt: skip
    return Answer(200, page)


def redeemed(state: State, params: forms.Params, customer: str, first: bool) -> list[Body]:
    """The discounts that `discounts[n][coupon]` or `[promotion_code]` name, redeemed for a customer. Raises Problem."""
    found: list[Body] = []
    for number, row in enumerate(forms.rows_of(params, "discounts")):
        forms.only(row, ("coupon", "promotion_code"))
        param = f"discounts[{number}]"
        coupon_id, code_id = forms.text_of(row, "coupon"), forms.text_of(row, "promotion_code")
        if code_id:
            code = objects.get(state, "promotion_code", code_id, f"{param}[promotion_code]", 400)
            _may_redeem(state, code, customer, first, param)
            code["times_redeemed"] += 1
            objects.save(state, code)
            coupon_id = code["promotion"]["coupon"]
        if not coupon_id:
            raise missing(f"{param}[coupon]")
        coupon = _current(state, objects.get(state, "coupon", coupon_id, f"{param}[coupon]", 400))
        if not coupon["valid"]:
            raise Problem(f"Coupon {coupon_id} is used up or expired.", code="coupon_expired", param=param)
        coupon["times_redeemed"] += 1
        objects.save(state, coupon)
        found.append(
            {
                "id": new_id("di", 24),
                "object": "discount",
                "customer": customer,
                "end": None,
                "promotion_code": code_id,
                "source": {"type": "coupon", "coupon": coupon},
                "start": state.clock.now(),
            }
        )
    return found


def _may_redeem(state: State, code: Body, customer: str, first: bool, param: str) -> None:
    expired = code["expires_at"] is not None and code["expires_at"] <= state.clock.now()
    used_up = code["max_redemptions"] is not None and code["times_redeemed"] >= code["max_redemptions"]
    if not code["active"] or expired or used_up:
        raise Problem("This promotion code is not active, expired, or used up.", code="promotion_code_expired", param=param)
    if code["customer"] not in (None, customer):
        raise Problem("This promotion code is another customer's.", param=param)
    if code["restrictions"]["first_time_transaction"] and not first:
        raise Problem("This promotion code is for a customer's first payment only.", param=param)


def _current(state: State, coupon: Body) -> Body:
    used_up = coupon["max_redemptions"] is not None and coupon["times_redeemed"] >= coupon["max_redemptions"]
    expired = coupon["redeem_by"] is not None and coupon["redeem_by"] <= state.clock.now()
    return {**coupon, "valid": not used_up and not expired}


def _positive(params: forms.Params, name: str) -> int | None:
    value = forms.integer_of(params, name)
    if value is not None and value < 1:
        raise wrong(name, "want 1 or more")
    return value


def _plain(percent: str) -> int | float:
    return int(percent) if "." not in percent else float(percent)


def _active(body: Body) -> str:
    return "active" if body["active"] else "inactive"
