"""Making an account: a sequence that can be cut anywhere and is gone on with by whoever comes next.

1. The organization, the claim on its source services, and the row that says how far the account is: one transaction.
2. The customer at the payment provider, which has resumable steps of its own; then the row says so.
3. The account, its key and secret, and the row's end: one transaction.

The caller repeats the call, or `finish_due` comes round: both go on from what the row says. So there is one account and one
customer however often it is cut, and the key is made in the same transaction that ends the row: once.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final, assert_never

from control_plane.accounts import repository
from control_plane.accounts.schemas import Created, Creation, NewAccount
from control_plane.customers import service as customers
from control_plane.parts import Parts
from control_plane.provider.port import Provider
from control_plane.refusals import Refusal
from control_plane.unit import Actor, Unit
from runtime.crash import crash_point
from runtime.keyring import Keyring
from store import api_keys
from store.audit import Entry

logger = logging.getLogger(__name__)

KEY_NAME: Final = "default"
DUE_AT_ONCE: Final = 20


def create(parts: Parts, provider: Provider, keyring: Keyring, actor: Actor, wanted: NewAccount) -> Created:
    """The organization's account, made or gone on with; the same request again answers the same account.

    Raises Refusal: another account of the organization, an unknown plan, source services of somebody else, and whatever the
    provider refuses. After one that is worth repeating (`unavailable`) the loop goes on by itself.
    """
    with parts.units.begin(actor) as unit:
        creation = _begun(unit, wanted)
    crash_point("accounts.begun")
    return _finish(parts, provider, keyring, actor, creation)


def finish_due(parts: Parts, provider: Provider, keyring: Keyring, actor: Actor) -> int:
    """Goes on with accounts that nobody is making any more; returns how many are done now. Safe with two copies."""
    with parts.units.begin(actor) as unit:
        due = repository.take_due(unit, DUE_AT_ONCE)
    done = 0
    for creation in due:
        try:
            _finish(parts, provider, keyring, actor, creation)
            done += 1
        except Refusal as refusal:
            logger.warning("an account is not finished", extra={"app_id": creation.app_id, "code": refusal.code})
    return done


def _begun(unit: Unit, wanted: NewAccount) -> Creation:
    """Step 1, or what an earlier call has made of it."""
    if wanted.plan_id is not None and not repository.plan_exists(unit, wanted.plan_id):
        raise Refusal(
            "invalid",
            "unknown_plan",
            f"The catalog has no plan {wanted.plan_id[:64]!a}; name one of it, or none.",
            {"fields": [{"field": "plan_id", "problem": "no such plan in the catalog"}]},
        )
    plan = repository.add_tenant(unit, wanted)
    app_id = repository.app_of(unit, wanted.organization_id) or "app_" + secrets.token_hex(12)
    new = repository.begin(unit, app_id, wanted)
    creation = repository.locked(unit, wanted.organization_id)
    assert creation is not None
    if not new:
        if creation.state == "refused":
            repository.begin_again(unit, creation.app_id, wanted)
        elif creation.digest != wanted.digest:
            raise Refusal(
                "conflict",
                "account_exists",
                "The organization has an account that was asked for otherwise; GetAccount shows it.",
                {"appId": creation.app_id},
            )
    if creation.state in ("begun", "refused") and wanted.plan_id is not None and plan != wanted.plan_id:
        raise Refusal(
            "conflict",
            "organization_has_a_plan",
            "The organization is there and on another plan; leave plan_id out, or name its own.",
        )
    if creation.state != "done":
        try:
            api_keys.claim(unit.pg, wanted.organization_id, wanted.source_services or (wanted.organization_id,))
        except api_keys.KeyRefused as refused:
            fields = [{"field": "source_services", "problem": str(refused)}]
            raise Refusal("invalid", "source_services_taken", f"{str(refused).capitalize()}.", {"fields": fields}) from None
    if new:
        unit.audit(Entry("account.begun", creation.app_id, None, {"tenant": wanted.organization_id, "plan": plan}))
    return repository.locked(unit, wanted.organization_id) or creation


def _finish(parts: Parts, provider: Provider, keyring: Keyring, actor: Actor, creation: Creation) -> Created:
    """Steps 2 and 3, as far as they are not done."""
    match creation.state:
        case "begun":
            _make_customer(parts, provider, actor, creation)
        case "customer" | "done":
            pass
        case "refused":
            raise Refusal("precondition", "account_refused", creation.reason or "The provider refused the customer.")
        case _:
            assert_never(creation.state)
    with parts.units.begin(actor) as unit:
        created = _done(unit, keyring, creation.tenant_id)
    crash_point("accounts.done")
    return created


def _make_customer(parts: Parts, provider: Provider, actor: Actor, creation: Creation) -> None:
    try:
        customers.ensure(parts.units, provider, creation.tenant_id, name=creation.name, email=creation.email, actor=actor)
    except Refusal as refusal:
        if refusal.kind not in ("unavailable", "exhausted") and refusal.retry_after_s is None:
            # The provider understood and made nothing, so there is nothing to go on with.
            with parts.units.begin(actor) as unit:
                standing = repository.locked(unit, creation.tenant_id)
                if standing is not None and standing.state == "begun":
                    repository.move(unit, creation.app_id, state="refused", reason=refusal.message)
        raise
    with parts.units.begin(actor) as unit:
        standing = repository.locked(unit, creation.tenant_id)
        if standing is not None and standing.state == "begun":
            repository.move(unit, creation.app_id, state="customer")
    crash_point("accounts.customer_recorded")


def _done(unit: Unit, keyring: Keyring, tenant_id: str) -> Created:
    """Step 3; what is done already is answered without the key."""
    creation = repository.locked(unit, tenant_id)
    if creation is None or creation.state not in ("customer", "done"):
        raise Refusal("conflict", "account_in_use", "The account was changed meanwhile; send it again.", retry_after_s=1)
    key = None
    secret_id = creation.secret_id
    if creation.state == "customer":
        repository.add_account(unit, creation.app_id, tenant_id)
        issued = api_keys.issue(
            unit.pg,
            keyring,
            tenant_id,
            KEY_NAME,
            creation.source_services or None,
            by=unit.actor.who,
            request_id=unit.actor.request_id,
        )
        key, secret_id = issued.key, issued.secret_id
        repository.move(unit, creation.app_id, state="done", secret_id=secret_id, name="", email=None)
        unit.audit(Entry("account.created", creation.app_id, None, {"tenant": tenant_id, "key": issued.key_id}))
    account = repository.account(unit, creation.app_id)
    assert account is not None
    assert secret_id is not None
    return Created(account, secret_id, key)
