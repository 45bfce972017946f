"""A local Lago: as much of its documented REST interface as the adapter speaks, on a free port, with a clock that a test moves.

What it holds to: customers and subscriptions are upserted by `external_id`; a dearer plan takes over at once and a cheaper one
waits for the period's end; a plan that is paid in advance is invoiced when its period begins; what ends at `ending_at` is
terminated then; a `transaction_id` is taken once; errors have Lago's form. Webhooks are signed with `hmac`.
"""

from __future__ import annotations

import base64
import calendar
import hmac
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

KEY = "lago-key-for-one-run"
Document = dict[str, Any]


class Answered(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, **document: Any) -> None:
        super().__init__(status)
        self.status, self.document = status, {"status": status, **document}


def missing(what: str) -> Answered:
    return Answered(404, error="Not Found", code=f"{what}_not_found")


def invalid(**details: list[str]) -> Answered:
    return Answered(422, error="Unprocessable entity", code="validation_errors", error_details=details)


@dataclass
class LocalLago:
    """The state; `fault` is met by the next write: drop (done, no answer) or error (500, not done)."""

    now: datetime
    port: int = 0
    fault: str | None = None
    plans: dict[str, Document] = field(default_factory=dict)
    metrics: set[str] = field(default_factory=set)
    customers: dict[str, Document] = field(default_factory=dict)
    subscriptions: list[Document] = field(default_factory=list)
    invoices: list[Document] = field(default_factory=list)
    events: dict[str, Document] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def plan(self, code: str, amount_cents: int, interval: str = "monthly", currency: str = "USD") -> str:
        """Makes a plan that is paid in advance."""
        self.plans[code] = {
            "lago_id": str(uuid.uuid4()),
            "code": code,
            "name": code,
            "interval": interval,
            "amount_cents": amount_cents,
            "amount_currency": currency,
            "pay_in_advance": True,
        }
        return code

    def advance(self, seconds: int) -> None:
        with self.lock:
            self.now += timedelta(seconds=seconds)
            for one in self.subscriptions:
                if one["status"] == "active" and one["ending_at"] and datetime.fromisoformat(one["ending_at"]) <= self.now:
                    one |= {"status": "terminated", "terminated_at": one["ending_at"]}

    def webhook(self, kind: str, of: str, document: Document, *, secret: str = KEY) -> tuple[bytes, dict[str, str]]:
        """A webhook as Lago would post it: body and headers."""
        body = json.dumps({"webhook_type": kind, "object_type": of, of: document}).encode()
        signature = base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode()
        return body, {
            "X-Lago-Signature": signature,
            "X-Lago-Signature-Algorithm": "hmac",
            "X-Lago-Unique-Key": str(uuid.uuid4()),
        }

    # --- what answers

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Document) -> Document:
        for verb, pattern, work in _ROUTES:
            found = re.fullmatch(pattern, path)
            if verb == method and found is not None:
                ids = [unquote(part) for part in found.groups()]
                return work(self, query, body, *ids)
        raise Answered(404, error="Not Found", code="resource_not_found")

    def entities(self, query: dict[str, list[str]], body: Document) -> Document:
        return self.listed("billing_entities", [{"lago_id": "be_local", "code": "local", "is_default": True}], query)

    def put_customer(self, query: dict[str, list[str]], body: Document) -> Document:
        given = _of(body, "customer")
        if not given.get("external_id"):
            raise invalid(external_id=["value_is_mandatory"])
        stands = self.customers.setdefault(
            given["external_id"],
            {
                "lago_id": str(uuid.uuid4()),
                "external_id": given["external_id"],
                "name": None,
                "email": None,
                "currency": None,
                "created_at": _text(self.now),
            },
        )
        stands |= {name: given[name] for name in ("name", "email", "currency") if name in given}
        return {"customer": stands}

    def customer(self, query: dict[str, list[str]], body: Document, external_id: str) -> Document:
        if external_id not in self.customers:
            raise missing("customer")
        return {"customer": self.customers[external_id]}

    def list_customers(self, query: dict[str, list[str]], body: Document) -> Document:
        return self.listed("customers", list(self.customers.values()), query)

    def show_plan(self, query: dict[str, list[str]], body: Document, code: str) -> Document:
        if code not in self.plans:
            raise missing("plan")
        return {"plan": self.plans[code]}

    def subscribe(self, query: dict[str, list[str]], body: Document) -> Document:
        given = _of(body, "subscription")
        customer, plan = self.customers.get(given["external_customer_id"]), self.plans.get(given["plan_code"])
        if customer is None:
            raise missing("customer")
        if plan is None:
            raise missing("plan")
        stands = self.running(given["external_id"])
        if stands is not None and stands["plan_code"] == plan["code"]:
            return {"subscription": stands}
        if stands is not None and plan["amount_cents"] < self.plans[stands["plan_code"]]["amount_cents"]:
            stands["next_plan_code"] = plan["code"]
            return {"subscription": stands}
        previous = None
        if stands is not None:
            previous = stands["plan_code"]
            stands |= {"status": "terminated", "terminated_at": _text(self.now), "next_plan_code": plan["code"]}
        made = self.made(given, plan, previous)
        self.invoiced(made, plan, customer)
        return {"subscription": made}

    def made(self, given: Document, plan: Document, previous: str | None) -> Document:
        start, end = self.period(plan["interval"])
        made: Document = {
            "lago_id": str(uuid.uuid4()),
            "external_id": given["external_id"],
            "external_customer_id": given["external_customer_id"],
            "billing_time": given.get("billing_time", "calendar"),
            "plan_code": plan["code"],
            "status": "active",
            "created_at": _text(self.now),
            "started_at": _text(self.now),
            "subscription_at": _text(self.now),
            "ending_at": None,
            "canceled_at": None,
            "terminated_at": None,
            "previous_plan_code": previous,
            "next_plan_code": None,
            "current_billing_period_started_at": _text(max(start, self.now)),
            "current_billing_period_ending_at": _text(end - timedelta(seconds=1)),
        }
        self.subscriptions.append(made)
        return made

    def invoiced(self, subscription: Document, plan: Document, customer: Document) -> None:
        """The first period, paid in advance; whole, so that a test knows the amount."""
        amount = plan["amount_cents"]
        self.invoices.append(
            {
                "lago_id": str(uuid.uuid4()),
                "number": f"LAG-{len(self.invoices) + 1:04}",
                "issuing_date": self.now.date().isoformat(),
                "payment_due_date": self.now.date().isoformat(),
                "invoice_type": "subscription",
                "status": "finalized",
                "payment_status": "pending",
                "currency": plan["amount_currency"],
                "fees_amount_cents": amount,
                "coupons_amount_cents": 0,
                "taxes_amount_cents": 0,
                "total_amount_cents": amount,
                "created_at": _text(self.now),
                "updated_at": _text(self.now),
                "customer": customer,
                "subscriptions": [subscription],
                "fees": [
                    {
                        "lago_id": str(uuid.uuid4()),
                        "amount_cents": amount,
                        "units": "1.0",
                        "item": {"type": "subscription", "code": plan["code"], "name": plan["name"]},
                        "from_date": subscription["current_billing_period_started_at"],
                        "to_date": subscription["current_billing_period_ending_at"],
                    }
                ],
            }
        )

    def running(self, external_id: str) -> Document | None:
        found = [one for one in self.subscriptions if one["external_id"] == external_id and one["status"] == "active"]
        return found[-1] if found else None

    def subscription(self, query: dict[str, list[str]], body: Document, external_id: str) -> Document:
        status = query.get("status", ["active"])[0]
        found = [one for one in self.subscriptions if (one["external_id"], one["status"]) == (external_id, status)]
        if not found:
            raise missing("subscription")
        return {"subscription": found[-1]}

    def change(self, query: dict[str, list[str]], body: Document, external_id: str) -> Document:
        stands = self.running(external_id)
        if stands is None:
            raise missing("subscription")
        stands["ending_at"] = _of(body, "subscription").get("ending_at")
        return {"subscription": stands}

    def terminate(self, query: dict[str, list[str]], body: Document, external_id: str) -> Document:
        stands = self.running(external_id)
        if stands is None:
            raise missing("subscription")
        stands |= {"status": "terminated", "terminated_at": _text(self.now)}
        return {"subscription": stands}

    def list_subscriptions(self, query: dict[str, list[str]], body: Document) -> Document:
        wanted, customer = query.get("status[]", ["active"]), query.get("external_customer_id")
        found = [one for one in self.subscriptions if one["status"] in wanted]
        return self.listed(
            "subscriptions", [one for one in found if not customer or one["external_customer_id"] in customer], query
        )

    def event(self, query: dict[str, list[str]], body: Document) -> Document:
        given = _of(body, "event")
        if given["transaction_id"] in self.events:
            raise invalid(transaction_id=["value_already_exist"])
        if self.running(given["external_subscription_id"]) is None:
            raise invalid(external_subscription_id=["subscription_not_found"])
        if given["code"] not in self.metrics:
            raise invalid(code=["metric_not_found"])
        self.events[given["transaction_id"]] = given
        return {"event": {**given, "lago_id": str(uuid.uuid4())}}

    def invoice(self, query: dict[str, list[str]], body: Document, lago_id: str) -> Document:
        for one in self.invoices:
            if one["lago_id"] == lago_id:
                return {"invoice": one}
        raise missing("invoice")

    def list_invoices(self, query: dict[str, list[str]], body: Document) -> Document:
        found = self.invoices
        for name in ("status", "payment_status"):
            if name in query:
                found = [one for one in found if one[name] in query[name]]
        if "external_customer_id" in query:
            found = [one for one in found if one["customer"]["external_id"] in query["external_customer_id"]]
        # Fees are in a single invoice only.
        bare = [{name: value for name, value in one.items() if name != "fees"} for one in found]
        return self.listed("invoices", bare, query)

    def listed(self, of: str, found: list[Document], query: dict[str, list[str]]) -> Document:
        page, count = int(query.get("page", ["1"])[0]), int(query.get("per_page", ["100"])[0])
        newest = found[::-1]
        shown = newest[(page - 1) * count : page * count]
        following = page + 1 if page * count < len(newest) else None
        return {of: shown, "meta": {"current_page": page, "next_page": following, "total_count": len(newest)}}

    def period(self, interval: str) -> tuple[datetime, datetime]:
        start = self.now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        if interval == "yearly":
            start = start.replace(month=1)
            return start, start.replace(year=start.year + 1)
        return start, start + timedelta(days=calendar.monthrange(start.year, start.month)[1])


_ID = "([^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., Document]], ...] = (
    ("GET", "billing_entities", LocalLago.entities),
    ("POST", "customers", LocalLago.put_customer),
    ("GET", "customers", LocalLago.list_customers),
    ("GET", f"customers/{_ID}", LocalLago.customer),
    ("GET", f"plans/{_ID}", LocalLago.show_plan),
    ("POST", "subscriptions", LocalLago.subscribe),
    ("GET", "subscriptions", LocalLago.list_subscriptions),
    ("GET", f"subscriptions/{_ID}", LocalLago.subscription),
    ("PUT", f"subscriptions/{_ID}", LocalLago.change),
    ("DELETE", f"subscriptions/{_ID}", LocalLago.terminate),
    ("POST", "events", LocalLago.event),
    ("GET", "invoices", LocalLago.list_invoices),
    ("GET", f"invoices/{_ID}", LocalLago.invoice),
)


def _of(body: Document, of: str) -> Document:
    found = body.get(of)
    if not isinstance(found, dict):
        raise Answered(400, error=f"Missing parameter: {of}", code="bad_request")
    return found


def _text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def local_lago(now: datetime) -> Iterator[LocalLago]:
    """It listens on a free port while the block runs."""
    lago = LocalLago(now)

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or b"{}")
            url = urlsplit(self.path)
            with lago.lock:
                fault = None if self.command == "GET" else lago.fault
                lago.fault = lago.fault if self.command == "GET" else None
                try:
                    if self.headers.get("Authorization") != f"Bearer {KEY}":
                        raise Answered(401, error="Unauthorized")
                    if fault == "error":
                        raise Answered(500, error="Internal Server Error")
                    path = url.path.removeprefix("/api/v1/")
                    status, answer = 200, lago.answer(self.command, path, parse_qs(url.query), body)
                except Answered as error:
                    status, answer = error.status, error.document
                told = json.dumps(answer).encode()
            if fault == "drop":
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST = do_PUT = do_DELETE = _handle

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    lago.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield lago
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
