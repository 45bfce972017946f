"""Products and prices: per unit or in tiers, once, by seats or metered."""

from __future__ import annotations

import re

from deploy.embedded.local_stripe import events, forms, metadata, meters, objects
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.paging import PAGING
from deploy.embedded.local_stripe.problems import Answer, Problem, missing, wrong
from deploy.embedded.local_stripe.state import State

INTERVALS = ("day", "week", "month", "year")
TIERS_MAX = 100
AMOUNT_MAX = 99_999_999
IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,100}")

_CURRENCY = re.compile(r"[a-z]{3}")
_AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


def create_product(state: State, params: forms.Params) -> Answer:
    """POST /v1/products; the id may be the caller's."""
    forms.only(params, ("id", "name", "active", "description", "metadata", "unit_label", "statement_descriptor"))
    identifier = forms.text_of(params, "id") or new_id("prod")
    if IDENTIFIER.fullmatch(identifier) is None:
        raise wrong("id", "want letters, digits, _ and -")
    if state.database.execute("SELECT 1 FROM objects WHERE id = ?", (identifier,)).fetchone() is not None:
        raise Problem(f"Product already exists: {identifier}", code="resource_already_exists", param="id")
    now = state.clock.now()
    body: Body = {
        "id": identifier,
        "object": "product",
        "active": forms.flag_of(params, "active") is not False,
        "created": now,
        "default_price": None,
        "description": forms.text_of(params, "description") or None,
        "images": [],
        "livemode": False,
        "metadata": metadata.of(params),
        "name": forms.required_text(params, "name", most=250),
        "statement_descriptor": forms.text_of(params, "statement_descriptor") or None,
        "type": "service",
        "unit_label": forms.text_of(params, "unit_label") or None,
        "updated": now,
    }
    objects.insert(state, "product", body, status=_active(body))
    events.record(state, "product.created", body)
    return Answer(200, body)


def retrieve_product(state: State, params: forms.Params, product: str) -> Answer:
    """GET /v1/products/{id}"""
    forms.only(params, ())
    return Answer(200, objects.get(state, "product", product))


def update_product(state: State, params: forms.Params, product: str) -> Answer:
    """POST /v1/products/{id}"""
    forms.only(params, ("name", "active", "description", "metadata", "unit_label", "default_price"))
    body = objects.get(state, "product", product)
    before = dict(body)
    for name in ("description", "unit_label"):
        if name in params:
            body[name] = forms.text_of(params, name) or None
    if "name" in params:
        body["name"] = forms.required_text(params, "name", most=250)
    if (active := forms.flag_of(params, "active")) is not None:
        body["active"] = active
    if (price := forms.text_of(params, "default_price")) is not None:
        body["default_price"] = objects.get(state, "price", price, "default_price", 400)["id"]
    metadata.change(body, params)
    body["updated"] = state.clock.now()
    objects.save(state, body, status=_active(body))
    events.record(state, "product.updated", body, before)
    return Answer(200, body)


def list_products(state: State, params: forms.Params) -> Answer:
    """GET /v1/products; `active` filters."""
    forms.only(params, (*PAGING, "active"))
    return Answer(200, objects.page(state, "product", "/v1/products", params, status=_wanted(params)))


_PRICE = (
    "currency", "product", "product_data", "unit_amount", "unit_amount_decimal", "recurring", "billing_scheme", "tiers",
    "tiers_mode", "nickname", "lookup_key", "transfer_lookup_key", "metadata", "active", "tax_behavior",
)  # fmt: skip


def create_price(state: State, params: forms.Params) -> Answer:
    """POST /v1/prices"""
    forms.only(params, _PRICE)
    currency = forms.required_text(params, "currency").lower()
    if _CURRENCY.fullmatch(currency) is None:
        raise wrong("currency", "want three letters")
    product = forms.text_of(params, "product")
    if product:
        objects.get(state, "product", product, "product", 400)
    elif "product_data" in params:
        given = forms.inner_of(params, "product_data")
        product = str(create_product(state, given).body["id"])
    else:
        raise missing("product")
    tiered = forms.choice_of(params, "billing_scheme", ("per_unit", "tiered")) == "tiered"
    amounts = _tiers(params) if tiered else _unit(params)
    lookup_key = forms.text_of(params, "lookup_key", most=200)
    body: Body = {
        "id": new_id("price", 24),
        "object": "price",
        "active": forms.flag_of(params, "active") is not False,
        "billing_scheme": "tiered" if tiered else "per_unit",
        "created": state.clock.now(),
        "currency": currency,
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": lookup_key or None,
        "metadata": metadata.of(params),
        "nickname": forms.text_of(params, "nickname") or None,
        "product": product,
        "recurring": _recurring(state, params),
        "tax_behavior": forms.choice_of(params, "tax_behavior", ("exclusive", "inclusive", "unspecified")) or "unspecified",
        "transform_quantity": None,
        **amounts,
    }
    body["type"] = "one_time" if body["recurring"] is None else "recurring"
    if tiered and body["recurring"] is None:
        raise wrong("billing_scheme", "a one-time price has no tiers")
    if lookup_key:
        _take_lookup_key(state, lookup_key, forms.flag_of(params, "transfer_lookup_key") is True)
    objects.insert(state, "price", body, parent=product, name=lookup_key or None, status=_active(body))
    events.record(state, "price.created", shown(body, False))
    return Answer(200, shown(body, forms.expands(params, "tiers")))


def retrieve_price(state: State, params: forms.Params, price: str) -> Answer:
    """GET /v1/prices/{id}; tiers only where `expand` asks for them."""
    forms.only(params, ())
    return Answer(200, shown(objects.get(state, "price", price), forms.expands(params, "tiers")))


def update_price(state: State, params: forms.Params, price: str) -> Answer:
    """POST /v1/prices/{id}: never what it costs."""
    forms.only(params, ("active", "nickname", "metadata", "lookup_key", "transfer_lookup_key", "tax_behavior"))
    body = objects.get(state, "price", price)
    before = dict(body)
    if (active := forms.flag_of(params, "active")) is not None:
        body["active"] = active
    if "nickname" in params:
        body["nickname"] = forms.text_of(params, "nickname") or None
    if "lookup_key" in params:
        key = forms.text_of(params, "lookup_key", most=200)
        if key and key != body["lookup_key"]:
            _take_lookup_key(state, key, forms.flag_of(params, "transfer_lookup_key") is True)
        body["lookup_key"] = key or None
    metadata.change(body, params)
    objects.save(state, body, name=body["lookup_key"], status=_active(body))
    events.record(state, "price.updated", shown(body, False), shown(before, False))
    return Answer(200, shown(body, forms.expands(params, "tiers")))


def list_prices(state: State, params: forms.Params) -> Answer:
    """GET /v1/prices; `product`, `active` and `lookup_keys` filter."""
    forms.only(params, (*PAGING, "product", "active", "lookup_keys"))
    product, status = forms.text_of(params, "product"), _wanted(params)
    with_tiers = forms.expands(params, "tiers")
    keys = forms.texts_of(params, "lookup_keys")
    if keys:
        found = [body for key in keys for body in objects.find(state, "price", name=key)]
        chosen = [body for body in found if product in (None, body["product"]) and status in (None, _active(body))]
        return Answer(
            200, {"object": "list", "url": "/v1/prices", "has_more": False, "data": [shown(one, with_tiers) for one in chosen]}
        )
    page = objects.page(state, "price", "/v1/prices", params, parent=product, status=status)
    return Answer(200, {**page, "data": [shown(one, with_tiers) for one in page["data"]]})


def shown(price: Body, with_tiers: bool) -> Body:
    """A price as it is answered."""
    return price if with_tiers else {name: value for name, value in price.items() if name != "tiers"}


def _unit(params: forms.Params) -> Body:
    whole, exact = forms.integer_of(params, "unit_amount"), _exact(params, "unit_amount_decimal")
    if (whole is None) == (exact is None):
        raise missing("unit_amount")
    if whole is not None and not 0 <= whole <= AMOUNT_MAX:
        raise wrong("unit_amount", f"want 0 to {AMOUNT_MAX}")
    if exact is None:
        exact = str(whole)
    return {"tiers_mode": None, "unit_amount": _whole(exact), "unit_amount_decimal": exact}


def _tiers(params: forms.Params) -> Body:
    mode = forms.choice_of(params, "tiers_mode", ("graduated", "volume"))
    rows = forms.rows_of(params, "tiers")
    if mode is None:
        raise missing("tiers_mode")
    if not 1 <= len(rows) <= TIERS_MAX:
        raise wrong("tiers", f"want 1 to {TIERS_MAX}")
    tiers: list[Body] = []
    for number, row in enumerate(rows):
        forms.only(row, ("up_to", "unit_amount", "unit_amount_decimal", "flat_amount", "flat_amount_decimal"))
        text = forms.required_text(row, "up_to")
        up_to = None if text == "inf" else forms.required_integer(row, "up_to")
        below = tiers[-1]["up_to"] if tiers else 0
        if (up_to is None) != (number == len(rows) - 1) or (up_to is not None and up_to <= (below or 0)):
            raise wrong(f"tiers[{number}][up_to]", "tiers rise, and only the last is inf")
        unit, flat = _either(row, "unit_amount"), _either(row, "flat_amount")
        if unit is None and flat is None:
            raise missing(f"tiers[{number}][unit_amount]")
        tiers.append(
            {
                "flat_amount": None if flat is None else _whole(flat),
                "flat_amount_decimal": flat,
                "unit_amount": None if unit is None else _whole(unit),
                "unit_amount_decimal": unit,
                "up_to": up_to,
            }
        )
    return {"tiers": tiers, "tiers_mode": mode, "unit_amount": None, "unit_amount_decimal": None}


def _either(row: forms.Params, name: str) -> str | None:
    whole = forms.integer_of(row, name)
    if whole is not None and whole < 0:
        raise wrong(name, "want 0 or more")
    return _exact(row, f"{name}_decimal") if whole is None else str(whole)


def _exact(params: forms.Params, name: str) -> str | None:
    text = forms.text_of(params, name)
    if text is None:
        return None
    if _AMOUNT.fullmatch(text) is None:
        raise wrong(name, "want a decimal with at most 12 decimals")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _whole(exact: str) -> int | None:
    return int(exact) if "." not in exact else None


def _recurring(state: State, params: forms.Params) -> Body | None:
    given = forms.map_of(params, "recurring")
    if not given:
        return None
    forms.only(forms.inner_of(params, "recurring"), ("interval", "interval_count", "usage_type", "meter", "trial_period_days"))
    inner = forms.inner_of(params, "recurring")
    interval = forms.choice_of(inner, "interval", INTERVALS)
    if interval is None:
        raise missing("recurring[interval]")
    usage_type = forms.choice_of(inner, "usage_type", ("licensed", "metered")) or "licensed"
    meter = forms.text_of(inner, "meter")
    if (usage_type == "metered") != bool(meter):
        raise wrong("recurring[meter]", "a metered price has a meter, a licensed one has none")
    if meter and meters.body_of(state, meter)["status"] != "active":
        raise wrong("recurring[meter]", f"{meter} is not active")
    count = forms.integer_of(inner, "interval_count")
    if count is not None and not 1 <= count <= 36:
        raise wrong("recurring[interval_count]", "want 1 to 36")
    return {
        "interval": interval,
        "interval_count": count or 1,
        "meter": meter or None,
        "trial_period_days": forms.integer_of(inner, "trial_period_days"),
        "usage_type": usage_type,
    }


def _take_lookup_key(state: State, key: str, transfer: bool) -> None:
    for holder in objects.find(state, "price", name=key):
        if not transfer:
            raise Problem(f"A price ({holder['id']}) already uses that lookup key.", param="lookup_key")
        holder["lookup_key"] = None
        objects.save(state, holder, name=None)


def _active(body: Body) -> str:
    return "active" if body["active"] else "inactive"


def _wanted(params: forms.Params) -> str | None:
    active = forms.flag_of(params, "active")
    return None if active is None else ("active" if active else "inactive")
