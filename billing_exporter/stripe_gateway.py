"""The real gateway, on the official SDK. The only module of the exporter that imports `stripe`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, TypeVar, cast

import stripe

from billing_exporter.gateway import (
    CUSTOMERS_MAX,
    INVOICES_MAX,
    TENANT_METADATA,
    Account,
    FinalUsage,
    GatewayAway,
    GatewayError,
    GatewayHalted,
    GatewayMissing,
    MeterEvent,
    StripeCustomer,
    StripeMeter,
    outcome_of,
)
from billing_exporter.price_gateway import FoundPrice, PriceOrder, PriceTerms, StripeProduct
from metering.export_states import Delivered, Outcome, plain
from runtime.settings import Settings, SettingsError

T = TypeVar("T")
Object = TypeVar("Object", bound=stripe.StripeObject)

_PAGE = 100
_METERS_MAX = 10_000
_KEYS_MAX = 20
"""Failures of one object that Stripe may keep, each under a key of its own, before setup has to wait for the day to pass."""
_LOOKUP_KEYS_MAX = 10
_PRICES_MAX = 1_000_000
_LINES_MAX = 10_000
_FLOAT_EXACT_MAX = 2**53


class StripeGateway:
    """Each thread gets a connection of its own from the SDK's HTTP client."""

    def __init__(self, key: str, *, api_base: str | None, timeout_s: float) -> None:
        # Stripe would be told the duration of the previous call with each one; nobody here wants that.
        stripe.enable_telemetry = False
        self._key = key
        self._client = stripe.StripeClient(
            key,
            base_addresses={"api": api_base.rstrip("/")} if api_base else {},
            http_client=stripe.RequestsClient(timeout=(min(timeout_s, 10.0), timeout_s)),
            max_network_retries=0,
        )

    @property
    def livemode(self) -> bool:
        """Told by the key's prefix: secret and restricted keys both have it."""
        return not self._key.startswith(("sk_test_", "rk_test_"))

    def account(self) -> Account:
        """See Gateway."""
        return Account(_call(self._client.v1.accounts.retrieve_current).id, self.livemode)

    def send(self, event: MeterEvent) -> Outcome:
        """See Gateway. The SDK draws a fresh idempotency key each time: one kept for a repeat would replay a stored 500."""
        try:
            self._client.v1.billing.meter_events.create(
                {
                    "event_name": event.meter,
                    "identifier": event.identifier,
                    "timestamp": int(event.at.timestamp()),
                    "payload": {"stripe_customer_id": event.customer_id, "value": str(event.value)},
                }
            )
        except stripe.StripeError as error:
            code = error.error.code if error.error is not None else None
            return outcome_of(error.http_status, error.user_message or type(error).__name__, code, event, _after_s(error))
        return Delivered()

    def summary(self, meter_id: str, customer_id: str, start: datetime, end: datetime) -> int | None:
        """See Gateway."""
        found = _call(
            lambda: self._client.v1.billing.meters.event_summaries.list(
                meter_id,
                {"customer": customer_id, "start_time": int(start.timestamp()), "end_time": int(end.timestamp()), "limit": _PAGE},
            )
        )
        if not found.data:
            return None
        if len(found.data) > 1 or found.has_more:
            raise GatewayError(f"Stripe answered several summaries of meter {meter_id} for one range")
        return _whole(found.data[0].aggregated_value)

    def final_usage(self, made_since: datetime) -> Iterator[FinalUsage]:
        """See Gateway. A graduated price has a line for each tier, and two prices of one meter have one usage."""
        names = {meter.id: meter.meter for meter in self.meters()}
        priced: dict[str, str] = {}
        for price in _walk(_call(lambda: self._client.v1.prices.list({"limit": _PAGE})), _PRICES_MAX):
            if price.recurring is not None and price.recurring.meter in names:
                priced[price.id] = names[price.recurring.meter]
        if not priced:
            return
        for invoice in _walk(_call(lambda: self._client.v1.invoices.list({"limit": _PAGE})), INVOICES_MAX):
            if invoice.created < made_since.timestamp():
                return  # they come newest first
            finalized = invoice.status_transitions.finalized_at
            if finalized is None or not isinstance(invoice.customer, str):
                continue
            lines = invoice.lines.data
            if invoice.lines.has_more:
                lines = self._lines(invoice.id)
            for (meter, start, end), quantity in _metered(lines, priced).items():
                yield FinalUsage(invoice.id, _moment(finalized), invoice.customer, meter, _moment(start), _moment(end), quantity)

    def _lines(self, invoice_id: str) -> list[stripe.InvoiceLineItem]:
        listed = _call(lambda: self._client.v1.invoices.line_items.list(invoice_id, {"limit": _PAGE}))
        return list(_walk(listed, _LINES_MAX))

    def meters(self) -> list[StripeMeter]:
        """See Gateway."""
        listed = _call(lambda: self._client.v1.billing.meters.list({"limit": _PAGE}))
        return [_meter(meter) for meter in _walk(listed, _METERS_MAX)]

    def create_meter(self, meter: str, display_name: str, formula: Literal["last", "sum"]) -> StripeMeter:
        """See Gateway."""
        order: stripe.params.billing.MeterCreateParams = {
            "display_name": display_name,
            "event_name": meter,
            "default_aggregation": {"formula": formula},
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
        }
        create = self._client.v1.billing.meters.create
        return _meter(_once(lambda options: create(order, options), "meter", meter, display_name, formula))

    def reactivate_meter(self, meter_id: str) -> None:
        """See Gateway."""
        _call(lambda: self._client.v1.billing.meters.reactivate(meter_id))

    def customers(self) -> Iterator[StripeCustomer]:
        """See Gateway."""
        listed = _call(lambda: self._client.v1.customers.list({"limit": _PAGE}))
        for customer in _walk(listed, CUSTOMERS_MAX):
            yield _customer(customer)

    def create_customer(self, tenant_id: str, name: str) -> StripeCustomer:
        """See Gateway."""
        order: stripe.params.CustomerCreateParams = {"name": name or tenant_id, "metadata": {TENANT_METADATA: tenant_id}}
        create = self._client.v1.customers.create
        return _customer(_once(lambda options: create(order, options), "customer", tenant_id))

    # -- products and prices: see PriceGateway

    def product(self, product_id: str) -> StripeProduct | None:
        """See PriceGateway."""
        try:
            found = _call(lambda: self._client.v1.products.retrieve(product_id))
        except GatewayMissing:
            return None
        return StripeProduct(found.id, found.name, found.active)

    def create_product(self, product_id: str, name: str) -> None:
        """See PriceGateway."""
        try:
            _call(lambda: self._client.v1.products.create({"id": product_id, "name": name}))
        except GatewayError as error:
            # Another run made it since this one looked.
            if isinstance(error, (GatewayAway, GatewayHalted)) or self.product(product_id) is None:
                raise

    def update_product(self, product_id: str, name: str) -> None:
        """See PriceGateway."""
        _call(lambda: self._client.v1.products.update(product_id, {"name": name, "active": True}))

    def prices(self, lookup_keys: Collection[str]) -> list[FoundPrice]:
        """See PriceGateway."""
        keys = list(lookup_keys)
        found: list[FoundPrice] = []
        for start in range(0, len(keys), _LOOKUP_KEYS_MAX):
            some = keys[start : start + _LOOKUP_KEYS_MAX]
            listed = _call(
                lambda some=some: self._client.v1.prices.list(  # type: ignore[misc]
                    {"lookup_keys": some, "limit": _PAGE, "expand": ["data.tiers"]}
                )
            )
            found.extend(_price(price) for price in listed.data)
        return found

    def create_price(self, order: PriceOrder) -> str:
        """See PriceGateway."""
        terms = order.terms
        params: stripe.params.PriceCreateParams = {
            "currency": terms.currency,
            "product": terms.product_id,
            "lookup_key": order.lookup_key,
            "transfer_lookup_key": True,
            "nickname": order.nickname,
            "metadata": dict(order.metadata),
            "recurring": {"interval": "month" if terms.monthly else "year"},
        }
        if terms.meter_id is None:
            params["unit_amount"] = int(terms.figures["amount"])
        else:
            included = int(terms.figures["included"])
            # As text: the SDK would write a small Decimal as 2E-10, which Stripe does not read.
            nothing, beyond = cast(Decimal, "0"), cast(Decimal, terms.figures["unit_amount"])
            params["recurring"] = {"interval": "month", "usage_type": "metered", "meter": terms.meter_id}
            params["billing_scheme"] = "tiered"
            params["tiers_mode"] = "graduated"
            params["tiers"] = [{"up_to": "inf", "unit_amount_decimal": beyond}]
            if included:
                params["tiers"].insert(0, {"up_to": included, "unit_amount_decimal": nothing})
        # No key of ours: one kept for a repeat would replay a stored 500 for a day. Who repeats looks for the lookup key first.
        return _call(lambda: self._client.v1.prices.create(params)).id

    def archive_price(self, price_id: str) -> None:
        """See PriceGateway."""
        _call(lambda: self._client.v1.prices.update(price_id, {"active": False}))

    def finalization_grace_s(self) -> int | None:
        """See PriceGateway."""
        drafts = _call(lambda: self._client.v1.invoices.list({"status": "draft", "limit": _PAGE})).data
        waits = [draft.automatically_finalizes_at - draft.created for draft in drafts if draft.automatically_finalizes_at]
        return min(waits, default=None)


def open_gateway(settings: Settings) -> StripeGateway:
    """The gateway of the settings. Raises SettingsError without a key, or with a live one pointed at another address."""
    if settings.stripe_secret_key is None:
        raise SettingsError("METERLINE_STRIPE_SECRET_KEY: set the secret key of the Stripe account (sk_test_... or sk_live_...)")
    key = settings.stripe_secret_key.get_secret_value()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError("METERLINE_STRIPE_SECRET_KEY: this is no key; it looks like sk_test_...")
    gateway = StripeGateway(key, api_base=settings.stripe_api_base, timeout_s=settings.stripe_timeout_s)
    if gateway.livemode and settings.stripe_api_base:
        raise SettingsError(
            "METERLINE_STRIPE_API_BASE is set: a live key is sent to Stripe only; use a test key here, or unset it"
        )
    return gateway


def key_digest(settings: Settings) -> bytes:
    """By which the account of a key is remembered. Raises SettingsError without a key."""
    if settings.stripe_secret_key is None:
        raise SettingsError("METERLINE_STRIPE_SECRET_KEY: set the secret key of the Stripe account (sk_test_... or sk_live_...)")
    return hashlib.sha256(settings.stripe_secret_key.get_secret_value().encode()).digest()


def _call(work: Callable[[], T]) -> T:
    """Runs a call that is no event; turns the SDK's errors into ours."""
    try:
        return work()
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise GatewayHalted(str(error)) from error
    except (stripe.APIConnectionError, stripe.RateLimitError) as error:
        raise GatewayAway(str(error)) from error
    except stripe.StripeError as error:
        if error.http_status == 404:
            raise GatewayMissing(str(error)) from error
        unclear = error.http_status is None or error.http_status == 409 or error.http_status >= 500 or error.http_status < 400
        raise (GatewayAway if unclear else GatewayError)(str(error)) from error


def _once(create: Callable[[stripe.RequestOptions], T], *parts: str) -> T:
    """Creates what `parts` name, one object however many runs do it at once: its idempotency key is made of them.

    A failure that Stripe kept under a key would be its answer for a day. It says when it repeats one; then the next key of a
    fixed row is tried, the same one by every run. Whoever creates has seen since that failure that there is no such object.
    """

    def attempt() -> T:
        row = 0
        while True:
            try:
                return create({"idempotency_key": _idempotency_key(*parts, *([str(row)] if row else []))})
            except stripe.APIError as error:
                row += 1
                if row == _KEYS_MAX or (error.headers or {}).get("idempotent-replayed") != "true":
                    raise

    return _call(attempt)


def _walk(listed: stripe.ListObject[Object], most: int) -> Iterator[Object]:
    """Every object behind a first page; each further page is a call, and its errors are ours too."""
    seen = 0
    while True:
        yield from listed.data
        seen += len(listed.data)
        if not listed.has_more:
            return
        if seen >= most:
            raise GatewayError(f"Stripe lists more than {most} objects here")
        page = listed
        listed = _call(page.next_page)


def _metered(lines: Iterable[stripe.InvoiceLineItem], priced: dict[str, str]) -> dict[tuple[str, int, int], int]:
    """Usage by (meter, start, end): the tiers of a price added up, of several prices the largest."""
    by_price: dict[tuple[str, int, int, str], int] = {}
    for line in lines:
        details = line.pricing.price_details if line.pricing is not None else None
        price = details.price if details is not None else None
        price_id = price if isinstance(price, str) or price is None else price.id
        if price_id in priced and price_id is not None:
            key = (priced[price_id], line.period.start, line.period.end, price_id)
            by_price[key] = by_price.get(key, 0) + (line.quantity or 0)
    found: dict[tuple[str, int, int], int] = {}
    for (meter, start, end, _), quantity in by_price.items():
        found[meter, start, end] = max(found.get((meter, start, end), 0), quantity)
    return found


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _meter(meter: stripe.billing.Meter) -> StripeMeter:
    return StripeMeter(meter.id, meter.event_name, str(meter.default_aggregation.formula), meter.status == "active")


def _price(price: stripe.Price) -> FoundPrice:
    recurring = price.recurring
    figures: dict[str, str] = {}
    tiers = price.tiers if price.billing_scheme == "tiered" else None
    if tiers and price.tiers_mode == "graduated" and all(not tier.flat_amount_decimal for tier in tiers):
        amounts = [Decimal(str(tier.unit_amount_decimal)) for tier in tiers]
        if len(tiers) == 1:
            figures = {"included": "0", "unit_amount": plain(amounts[0])}
        elif len(tiers) == 2 and amounts[0] == 0:
            figures = {"included": str(tiers[0].up_to), "unit_amount": plain(amounts[1])}
    elif price.unit_amount is not None:
        figures = {"amount": str(price.unit_amount)}
    monthly = recurring is not None and recurring.interval == "month"
    usual = recurring is not None and recurring.interval in ("month", "year") and recurring.interval_count == 1
    product = price.product if isinstance(price.product, str) else price.product.id
    terms = PriceTerms(product, price.currency, monthly, recurring.meter if recurring else None, figures if usual else {})
    return FoundPrice(price.id, price.lookup_key or "", price.active, terms)


def _customer(customer: stripe.Customer) -> StripeCustomer:
    metadata = customer.metadata.to_dict() if customer.metadata is not None else {}
    return StripeCustomer(customer.id, metadata.get(TENANT_METADATA))


def _whole(value: object) -> int:
    """Stripe's JSON number as the integer that it is. Raises GatewayError where a float may have lost digits."""
    if isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < _FLOAT_EXACT_MAX:
        return int(value)
    raise GatewayError(f"Stripe answered the total {value!r}, which is no exact whole number")


def _after_s(error: stripe.StripeError) -> float:
    text = (error.headers or {}).get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 6 else 0.0


def _idempotency_key(*parts: str) -> str:
    """Fits a header, whatever the parts hold."""
    text = b"".join(b"%d:%s," % (len(part.encode()), part.encode()) for part in parts)
    return f"meterline-{parts[0]}-{hashlib.sha256(text).hexdigest()}"
