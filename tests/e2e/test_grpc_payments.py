"""PaymentService over a real socket: customers, subscriptions, invoices and payment methods, against the local Stripe."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from control_plane.grpc.generated import payment_pb2 as pb
from runtime.keyring import keyring
from runtime.postgres import connect
from runtime.settings import Settings
from store import service_secrets
from store.api_keys import issue
from tests.e2e.seed_operations import seed
from tests.fakes.grpc_process import GrpcProcess, customers_of, grpc_process, key_of, refused, secret_of
from tests.fakes.webhook_senders import stripe_header
from tests.integration.selling import CARD, DECLINED, Shop, shop

PLANTED = "sk_planted000000000000000000000000000"
WEBHOOK_SECRET = "whsec_of_this_run"
Credentials = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def sold(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    over = {
        "secret_encrypt_key": SecretStr("a secret of the keyring of this test"),
        "stripe_webhook_secret": SecretStr(WEBHOOK_SECRET),
    }
    configured = migrated.model_copy(update=over)
    with shop(configured, tmp_path_factory.mktemp("stripe")) as running:
        yield running


@pytest.fixture(scope="module")
def service(sold: Shop) -> Credentials:
    with connect(sold.settings) as connection:
        return secret_of(service_secrets.create(connection, "console", ["console"]))


@pytest.fixture(scope="module")
def server(sold: Shop, service: Credentials) -> Iterator[GrpcProcess]:
    with grpc_process(sold.settings) as running:
        yield running


def key(sold: Shop, tenant_id: str) -> Credentials:
    keys = keyring(sold.settings)
    assert keys is not None
    with connect(sold.settings) as connection:
        return key_of(issue(connection, keys, tenant_id, "own").key)


@pytest.fixture(scope="module")
def ours(sold: Shop) -> tuple[str, Credentials]:
    tenant_id = sold.tenant()
    return tenant_id, key(sold, tenant_id)


@pytest.fixture(scope="module")
def theirs(sold: Shop) -> tuple[str, Credentials]:
    tenant_id = sold.tenant()
    return tenant_id, key(sold, tenant_id)


@pytest.fixture(scope="module")
def subscribed(server: GrpcProcess, sold: Shop, service: Credentials) -> tuple[pb.Subscription, Credentials]:
    """A subscription, and the key of its organization."""
    tenant_id = sold.tenant()
    request = pb.CreateSubscriptionRequest(
        customer_id=tenant_id, plan_id="studio", currency="usd", quantity=3, payment_method_id=CARD
    )
    made = server.payment.CreateSubscription(request, metadata=service, timeout=20).subscription
    return made, key(sold, tenant_id)


@seed("004", "CreateCustomer", "used", "wrong role", "other tenant", "bad input", "repeated")
@seed("004", "GetCustomer", "used", "wrong role", "other tenant", "bad input", "repeated")
@seed("004", "UpdateCustomer", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_a_customer_is_made_once_shown_to_its_own_and_changed_as_the_mask_says(
    server: GrpcProcess, sold: Shop, service: Credentials, ours: tuple[str, Credentials], theirs: tuple[str, Credentials]
) -> None:
    payment, (tenant_id, own), other = server.payment, ours, theirs[1]
    request = pb.CreateCustomerRequest(customer_id=tenant_id, name="Ours", email="billing@example.com")
    made = [payment.CreateCustomer(request, metadata=service, timeout=20).customer for _ in range(2)]
    assert made[0] == made[1]
    assert (made[0].name, made[0].provider) == ("Ours", "stripe")
    named = customers_of(sold.stripe, tenant_id)
    assert [one.id for one in named] == [made[0].provider_customer_id]
    bad = refused(payment.CreateCustomer, pb.CreateCustomerRequest(email=PLANTED), service)
    assert (bad.code, bad.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("customer_id", "email"))
    assert PLANTED not in bad.message
    nowhere = refused(payment.CreateCustomer, pb.CreateCustomerRequest(customer_id="nowhere"), service)
    assert nowhere.code == grpc.StatusCode.NOT_FOUND
    for credentials in (own, other):
        assert refused(payment.CreateCustomer, request, credentials).code == grpc.StatusCode.PERMISSION_DENIED

    shown = pb.GetCustomerRequest(customer_id=tenant_id)
    for credentials in (service, own, own):
        assert payment.GetCustomer(shown, metadata=credentials, timeout=20).customer.name == "Ours"
    assert refused(payment.GetCustomer, shown, other).code == grpc.StatusCode.NOT_FOUND
    assert refused(payment.GetCustomer, shown).code == grpc.StatusCode.UNAUTHENTICATED
    assert refused(payment.GetCustomer, pb.GetCustomerRequest(), service).fields == ("customer_id",)

    wanted = pb.Customer(customer_id=tenant_id, name="Renamed", email="not looked at")
    change = pb.UpdateCustomerRequest(customer=wanted, update_mask={"paths": ["name"]})
    wrong = refused(payment.UpdateCustomer, change, service)
    assert wrong.fields == ("email",), "what is sent has to be right, whether it is in the mask or not"
    change.customer.email = ""
    for _ in range(2):
        changed = payment.UpdateCustomer(change, metadata=service, timeout=20).customer
        assert (changed.name, changed.email) == ("Renamed", "billing@example.com")
    for paths in ([], ["nmae"], ["provider_customer_id"]):
        told = refused(payment.UpdateCustomer, pb.UpdateCustomerRequest(customer=wanted, update_mask={"paths": paths}), service)
        assert told.fields == ("update_mask",)
    for credentials in (own, other):
        assert refused(payment.UpdateCustomer, change, credentials).code == grpc.StatusCode.PERMISSION_DENIED


@seed("004", "ListCustomers", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_customers_are_listed_page_by_page_to_services_only(
    server: GrpcProcess, sold: Shop, service: Credentials, ours: tuple[str, Credentials]
) -> None:
    for _ in range(3):
        server.payment.CreateCustomer(pb.CreateCustomerRequest(customer_id=sold.tenant()), metadata=service, timeout=20)
    known = sorted(tenant_id for (tenant_id,) in sold.rows("SELECT tenant_id FROM customers"))
    for _ in range(2):
        listed, token = [], ""
        while True:
            page = server.payment.ListCustomers(
                pb.ListCustomersRequest(page_size=2, page_token=token), metadata=service, timeout=20
            )
            assert len(page.customers) <= 2
            listed += [customer.customer_id for customer in page.customers]
            token = page.next_page_token
            if not token:
                break
        assert listed == known
    assert refused(server.payment.ListCustomers, pb.ListCustomersRequest(page_size=101), service).fields == ("page_size",)
    assert refused(server.payment.ListCustomers, pb.ListCustomersRequest(page_token="x"), service).reason == "BAD_CURSOR"
    assert refused(server.payment.ListCustomers, pb.ListCustomersRequest(), ours[1]).code == grpc.StatusCode.PERMISSION_DENIED


@seed("004", "CreateSubscription", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_a_subscription_is_made_once_under_its_idempotency_key(
    server: GrpcProcess, sold: Shop, service: Credentials, theirs: tuple[str, Credentials]
) -> None:
    tenant_id = sold.tenant()
    request = pb.CreateSubscriptionRequest(customer_id=tenant_id, plan_id="studio", currency="usd", payment_method_id=CARD)
    keyed = (*service, ("idempotency-key", "once"))
    first, again = (server.payment.CreateSubscription(request, metadata=keyed, timeout=20) for _ in range(2))
    assert first == again
    assert first.subscription.status == pb.SUBSCRIPTION_STATUS_ACTIVE
    assert first.subscription.billing_cycle == pb.BILLING_CYCLE_MONTHLY
    assert len(sold.at_stripe(tenant_id)) == 1
    reused = pb.CreateSubscriptionRequest(customer_id=tenant_id, plan_id="agency")
    assert refused(server.payment.CreateSubscription, reused, keyed).reason == "IDEMPOTENCY_KEY_REUSED"
    second = refused(server.payment.CreateSubscription, request, service)
    assert (second.code, second.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_SUBSCRIBED")
    bad = pb.CreateSubscriptionRequest(currency="USD", quantity=-1, trial_days=731)
    assert refused(server.payment.CreateSubscription, bad, service).fields == (
        *("customer_id", "plan_id", "currency", "quantity", "trial_days"),
    )
    unknown = pb.CreateSubscriptionRequest(customer_id=sold.tenant(), plan_id="nowhere")
    assert refused(server.payment.CreateSubscription, unknown, service).reason == "UNKNOWN_PLAN"
    declined = pb.CreateSubscriptionRequest(customer_id=sold.tenant(), plan_id="studio", payment_method_id=DECLINED)
    told = refused(server.payment.CreateSubscription, declined, service)
    assert told.code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)
    assert refused(server.payment.CreateSubscription, request, theirs[1]).code == grpc.StatusCode.PERMISSION_DENIED


@seed("004", "UpdateSubscription", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_a_subscription_is_previewed_and_changed_as_the_mask_says(
    server: GrpcProcess, service: Credentials, subscribed: tuple[pb.Subscription, Credentials]
) -> None:
    before, own = subscribed
    wanted = pb.Subscription(subscription_id=before.subscription_id, quantity=5, plan_id="not looked at")
    request = pb.UpdateSubscriptionRequest(subscription=wanted, update_mask={"paths": ["quantity"]}, preview_only=True)
    seen = server.payment.UpdateSubscription(request, metadata=service, timeout=20)
    assert not seen.HasField("subscription")
    assert seen.preview.currency == "usd"
    assert seen.preview.total > 0
    request.preview_only = False
    for _ in range(2):
        after = server.payment.UpdateSubscription(request, metadata=service, timeout=20).subscription
        assert (after.quantity, after.plan_id) == (5, "studio")
    for paths in ([], ["status"]):
        odd = pb.UpdateSubscriptionRequest(subscription=wanted, update_mask={"paths": paths})
        told = refused(server.payment.UpdateSubscription, odd, service)
        assert told.fields == ("update_mask",)
    nowhere = pb.UpdateSubscriptionRequest(
        subscription=pb.Subscription(subscription_id="sub_nowhere", quantity=2), update_mask={"paths": ["quantity"]}
    )
    assert refused(server.payment.UpdateSubscription, nowhere, service).code == grpc.StatusCode.NOT_FOUND
    assert refused(server.payment.UpdateSubscription, request, own).code == grpc.StatusCode.PERMISSION_DENIED


@seed("004", "CancelSubscription", "used", "wrong role", "other tenant", "bad input", "repeated")
@seed("004", "ReactivateSubscription", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_a_subscription_is_cancelled_at_its_end_taken_back_and_cancelled_now(
    server: GrpcProcess, service: Credentials, subscribed: tuple[pb.Subscription, Credentials]
) -> None:
    before, own = subscribed
    later = pb.CancelSubscriptionRequest(subscription_id=before.subscription_id, at_period_end=True)
    back = pb.ReactivateSubscriptionRequest(subscription_id=before.subscription_id)
    for _ in range(2):
        assert server.payment.CancelSubscription(later, metadata=service, timeout=20).subscription.cancel_at_period_end
    for _ in range(2):
        kept = server.payment.ReactivateSubscription(back, metadata=service, timeout=20).subscription
        assert (kept.cancel_at_period_end, kept.status) == (False, pb.SUBSCRIPTION_STATUS_ACTIVE)
    for act, request in ((server.payment.CancelSubscription, later), (server.payment.ReactivateSubscription, back)):
        assert refused(act, request, own).code == grpc.StatusCode.PERMISSION_DENIED
        assert refused(act, type(request)(), service).fields == ("subscription_id",)
        assert refused(act, type(request)(subscription_id="sub_nowhere"), service).code == grpc.StatusCode.NOT_FOUND
    now = pb.CancelSubscriptionRequest(subscription_id=before.subscription_id)
    ended = server.payment.CancelSubscription(now, metadata=service, timeout=20).subscription
    assert ended.status == pb.SUBSCRIPTION_STATUS_CANCELED
    assert refused(server.payment.CancelSubscription, now, service).reason == "SUBSCRIPTION_OVER"
    assert refused(server.payment.ReactivateSubscription, back, service).reason == "SUBSCRIPTION_OVER"


@seed("004", "AddPaymentMethod", "used", "wrong role", "other tenant", "bad input", "repeated")
@seed("004", "SetDefaultPaymentMethod", "used", "wrong role", "other tenant", "bad input", "repeated")
@seed("004", "RemovePaymentMethod", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_a_payment_method_is_added_made_the_default_and_taken_away(
    server: GrpcProcess, sold: Shop, service: Credentials, theirs: tuple[str, Credentials]
) -> None:
    payment, tenant_id = server.payment, sold.tenant()
    own = key(sold, tenant_id)
    add = pb.AddPaymentMethodRequest(customer_id=tenant_id, payment_method_id=CARD, set_default=True)
    keyed = (*service, ("idempotency-key", "card"))
    first, again = (payment.AddPaymentMethod(add, metadata=keyed, timeout=20).payment_method for _ in range(2))
    assert first == again
    assert (first.kind, first.last4, first.is_default) == ("card", "4242", True)
    second = payment.AddPaymentMethod(
        pb.AddPaymentMethodRequest(customer_id=tenant_id, payment_method_id="pm_card_mastercard"), metadata=service, timeout=20
    ).payment_method
    assert not second.is_default
    default = pb.SetDefaultPaymentMethodRequest(customer_id=tenant_id, payment_method_id=second.payment_method_id)
    for _ in range(2):
        assert payment.SetDefaultPaymentMethod(default, metadata=service, timeout=20).payment_method.is_default
    elsewhere = pb.SetDefaultPaymentMethodRequest(customer_id=theirs[0], payment_method_id=second.payment_method_id)
    assert refused(payment.SetDefaultPaymentMethod, elsewhere, service).code == grpc.StatusCode.NOT_FOUND
    remove = pb.RemovePaymentMethodRequest(payment_method_id=second.payment_method_id)
    for act, request in (
        (payment.AddPaymentMethod, add),
        (payment.SetDefaultPaymentMethod, default),
        (payment.RemovePaymentMethod, remove),
    ):
        for credentials in (own, theirs[1]):
            assert refused(act, request, credentials).code == grpc.StatusCode.PERMISSION_DENIED
        assert "payment_method_id" in refused(act, type(request)(), service).fields
    payment.RemovePaymentMethod(remove, metadata=service, timeout=20)
    assert refused(payment.RemovePaymentMethod, remove, service).code == grpc.StatusCode.NOT_FOUND
    nothing = pb.AddPaymentMethodRequest(customer_id=tenant_id, payment_method_id="pm_nowhere")
    assert refused(payment.AddPaymentMethod, nothing, service).code != grpc.StatusCode.INTERNAL


@seed("004", "GenerateInvoice", "used", "wrong role", "other tenant", "bad input", "repeated")
@seed("004", "GetInvoice", "used", "wrong role", "other tenant", "bad input", "repeated")
@seed("004", "ListInvoices", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_what_is_pending_becomes_an_invoice_which_its_own_organization_sees(
    server: GrpcProcess, sold: Shop, service: Credentials, theirs: tuple[str, Credentials]
) -> None:
    payment, tenant_id = server.payment, sold.tenant()
    own = key(sold, tenant_id)
    generate = pb.GenerateInvoiceRequest(customer_id=tenant_id, description="what is pending")
    assert refused(payment.GenerateInvoice, generate, service).code != grpc.StatusCode.INTERNAL, "nothing was ever billed"
    subscribe = pb.CreateSubscriptionRequest(customer_id=tenant_id, plan_id="studio", currency="usd", payment_method_id=CARD)
    made = payment.CreateSubscription(subscribe, metadata=service, timeout=20).subscription
    assert made.status == pb.SUBSCRIPTION_STATUS_ACTIVE
    (customer,) = customers_of(sold.stripe, tenant_id)
    sold.stripe.client().v1.invoice_items.create({"customer": customer.id, "amount": 700, "currency": "usd"})
    keyed = (*service, ("idempotency-key", "invoice"))
    first, again = (payment.GenerateInvoice(generate, metadata=keyed, timeout=20).invoice for _ in range(2))
    assert first == again
    assert (first.total, [line.amount for line in first.lines]) == (700, [700])

    shown = pb.GetInvoiceRequest(invoice_id=first.invoice_id)
    for credentials in (service, own, own):
        assert payment.GetInvoice(shown, metadata=credentials, timeout=20).invoice.total == first.total
    assert refused(payment.GetInvoice, shown, theirs[1]).code == grpc.StatusCode.NOT_FOUND
    assert refused(payment.GetInvoice, pb.GetInvoiceRequest(), service).fields == ("invoice_id",)
    assert refused(payment.GetInvoice, shown, secret_of(PLANTED)).code == grpc.StatusCode.UNAUTHENTICATED

    listing = pb.ListInvoicesRequest(customer_id=tenant_id, page_size=1)
    page = payment.ListInvoices(listing, metadata=own, timeout=20)
    assert page == payment.ListInvoices(listing, metadata=service, timeout=20)
    ids = [invoice.invoice_id for invoice in page.invoices]
    while page.next_page_token:
        listing.page_token = page.next_page_token
        page = payment.ListInvoices(listing, metadata=own, timeout=20)
        ids += [invoice.invoice_id for invoice in page.invoices]
    assert first.invoice_id in ids
    assert len(ids) == len(set(ids))
    assert (
        refused(payment.ListInvoices, pb.ListInvoicesRequest(customer_id=tenant_id), theirs[1]).code == grpc.StatusCode.NOT_FOUND
    )
    assert refused(payment.ListInvoices, pb.ListInvoicesRequest(), service).fields == ("customer_id",)
    assert refused(payment.ListInvoices, pb.ListInvoicesRequest()).code == grpc.StatusCode.UNAUTHENTICATED

    for credentials in (own, theirs[1]):
        assert refused(payment.GenerateInvoice, generate, credentials).code == grpc.StatusCode.PERMISSION_DENIED
    assert refused(payment.GenerateInvoice, pb.GenerateInvoiceRequest(), service).fields == ("customer_id",)


@seed("004", "RecordUsage", "used", "wrong role", "other tenant", "bad input", "repeated")
@seed("004", "GetUsage", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_usage_is_recorded_by_who_may_emit_it_and_read_page_by_page_by_its_own(
    server: GrpcProcess, sold: Shop, service: Credentials, theirs: tuple[str, Credentials]
) -> None:
    payment, tenant_id = server.payment, sold.tenant()
    own = key(sold, tenant_id)
    usage: dict[str, Any] = {"customer_id": tenant_id, "usage_type": "RENDER", "quantity": "1.5", "source_service": tenant_id}
    record = pb.RecordUsageRequest(**usage, source_entity_id="job-1", metadata={"scene": "7"})
    for _ in range(2):
        assert payment.RecordUsage(record, metadata=own, timeout=20).state == "queued"
    sent = [value for (value,) in sold.rows("SELECT value FROM outbox WHERE value LIKE %s", f"%{tenant_id}%".encode())]
    assert len(sent) == 2, "the repeat has the same key, and is counted once"
    assert len(set(sent)) == 1

    assert refused(payment.RecordUsage, record, theirs[1]).code == grpc.StatusCode.NOT_FOUND
    elsewhere = pb.RecordUsageRequest(**usage | {"source_service": "analysis-worker"}, source_entity_id="job-1")
    assert refused(payment.RecordUsage, elsewhere, own).code == grpc.StatusCode.PERMISSION_DENIED
    unknown = pb.RecordUsageRequest(**usage | {"usage_type": "NOTHING"}, source_entity_id="job-1")
    assert refused(payment.RecordUsage, unknown, own).code == grpc.StatusCode.INVALID_ARGUMENT
    for quantity in ("", "-1", "1e3", "0.0000001"):
        odd = pb.RecordUsageRequest(**usage | {"quantity": quantity}, source_entity_id="job-1")
        assert refused(payment.RecordUsage, odd, own).fields == ("quantity",)
    assert refused(payment.RecordUsage, record, secret_of(PLANTED)).code == grpc.StatusCode.UNAUTHENTICATED

    for day in ("2026-11-01", "2026-11-02", "2026-11-03"):
        sold.execute("INSERT INTO usage_counters VALUES (%s, 'RENDER', %s, 2.500000, 4)", tenant_id, day)
    get = pb.GetUsageRequest(customer_id=tenant_id, start_day="2026-11-01", end_day="2026-11-04", page_size=2)
    for credentials in (own, service):
        page = payment.GetUsage(get, metadata=credentials, timeout=20)
        assert [(line.day, line.quantity, line.events) for line in page.lines] == [
            ("2026-11-01", "2.5", 4),
            ("2026-11-02", "2.5", 4),
        ]
        rest = pb.GetUsageRequest(
            customer_id=tenant_id, start_day="2026-11-01", end_day="2026-11-04", page_token=page.next_page_token
        )
        last = payment.GetUsage(rest, metadata=credentials, timeout=20)
        assert ([line.day for line in last.lines], last.next_page_token) == (["2026-11-03"], "")
    assert refused(payment.GetUsage, get, theirs[1]).code == grpc.StatusCode.NOT_FOUND
    assert refused(payment.GetUsage, get).code == grpc.StatusCode.UNAUTHENTICATED
    odd_days = pb.GetUsageRequest(customer_id=tenant_id, start_day="2026-11-31", end_day="tomorrow")
    assert refused(payment.GetUsage, odd_days, own).fields == ("start_day", "end_day")


@seed("004", "HandleWebhook", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_a_webhook_is_taken_once_by_its_signature_and_by_nothing_else(server: GrpcProcess, service: Credentials) -> None:
    event = {"object": "v2.core.event", "id": "evt_grpc", "type": "v1.billing.meter.no_meter_found", "livemode": False}
    body = json.dumps({**event, "related_object": None}).encode()
    signed = pb.HandleWebhookRequest(
        provider="stripe", payload=body, signature=stripe_header(body, WEBHOOK_SECRET, int(time.time()))
    )
    took = [server.payment.HandleWebhook(signed, timeout=20) for _ in range(2)]
    assert [(one.message_id, one.repeated) for one in took] == [("evt_grpc", False), ("evt_grpc", True)]
    forged = pb.HandleWebhookRequest(provider="stripe", payload=body, signature=stripe_header(body, PLANTED, int(time.time())))
    for credentials in ((), service):
        told = refused(server.payment.HandleWebhook, forged, credentials)
        assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "WRONG_SIGNATURE")
    assert refused(server.payment.HandleWebhook, pb.HandleWebhookRequest(provider="paypal")).fields == ("provider",)


def test_no_planted_secret_is_in_the_logs(server: GrpcProcess, sold: Shop, service: Any) -> None:
    refused(server.payment.GetCustomer, pb.GetCustomerRequest(customer_id=PLANTED), secret_of(PLANTED))
    logged = "".join(server.lines)
    assert "call refused" in logged
    for secret in (PLANTED, sold.stripe.key, service[0][1]):
        assert secret not in logged
