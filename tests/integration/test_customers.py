"""A tenant has one customer at the provider, whoever asks for it, how often, and what was refused before."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from control_plane.customers import service
from control_plane.customers.converging import converge, forget
from control_plane.provider import observing
from control_plane.refusals import Refusal
from runtime.settings import Settings
from tests.integration.selling import ACTOR, Shop, shop


@pytest.fixture(scope="module")
def sold(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(migrated, tmp_path_factory.mktemp("stripe")) as running:
        yield running


def ensure(sold: Shop, tenant_id: str, name: str = "Northlight") -> str:
    return service.ensure(sold.units, sold.provider, tenant_id, name=name, email=None, actor=ACTOR)


def at_stripe(sold: Shop, tenant_id: str) -> list[str]:
    listed = sold.stripe.client().v1.customers.list({"limit": 100}).data
    return [one.id for one in listed if one.metadata is not None and one.metadata.to_dict().get("meterline_tenant") == tenant_id]


def test_whoever_asks_at_the_same_time_gets_the_one_customer(sold: Shop) -> None:
    tenant_id = sold.tenant()
    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(lambda _: ensure(sold, tenant_id), range(4)))
    assert len(found) == 1
    assert at_stripe(sold, tenant_id) == [*found]
    assert sold.row("SELECT stripe_customer_id FROM tenants WHERE tenant_id = %s", tenant_id) == (*found,)


def test_what_was_refused_does_not_stand_in_the_way_of_what_is_right(sold: Shop) -> None:
    tenant_id = sold.tenant()
    with pytest.raises(Refusal) as refused:
        ensure(sold, tenant_id, "n" * 400)
    assert refused.value.code == "provider_refused"
    made = ensure(sold, tenant_id)
    assert at_stripe(sold, tenant_id) == [made]


def test_an_intent_whose_key_may_be_forgotten_is_looked_for_before_it_is_made(sold: Shop) -> None:
    tenant_id = sold.tenant()
    made = sold.stripe.client().v1.customers.create({"name": "Northlight", "metadata": {"meterline_tenant": tenant_id}}).id
    sold.execute(
        "INSERT INTO customers (tenant_id, provider, state, making_key, name, seen, created_at)"
        " VALUES (%s, 'stripe', 'making', 'a key of yesterday', 'Northlight', 0, now() - interval '2 days')",
        tenant_id,
    )
    assert ensure(sold, tenant_id) == made
    assert at_stripe(sold, tenant_id) == [made]


def test_a_customer_that_setup_made_is_taken_over(sold: Shop) -> None:
    tenant_id = sold.tenant()
    made = sold.stripe.client().v1.customers.create({"name": "Setup", "metadata": {"meterline_tenant": tenant_id}}).id
    sold.execute("UPDATE tenants SET stripe_customer_id = %s WHERE tenant_id = %s", made, tenant_id)
    view = service.create(sold.units, sold.provider, tenant_id, name="Other", email=None, actor=ACTOR)
    assert (view.provider_customer_id, view.name) == (made, "Setup")
    changed = service.change(sold.units, sold.provider, tenant_id, name="New", email="a@example.com", key="k1", actor=ACTOR)
    assert (changed.name, changed.email) == ("New", "a@example.com")
    with sold.units.begin(ACTOR) as unit:
        assert service.show(unit, tenant_id) == changed
        assert changed in service.page(unit, None, 100)


def test_a_second_customer_that_names_the_tenant_is_not_taken_for_ours(sold: Shop) -> None:
    tenant_id = sold.tenant()
    ours = ensure(sold, tenant_id)
    other = sold.stripe.client().v1.customers.create({"name": "Twin", "metadata": {"meterline_tenant": tenant_id}}).id
    seen = observing.ticket(sold.units, ACTOR)
    with sold.units.begin(ACTOR) as unit:
        assert not converge(unit, "stripe", sold.provider.customer(other), seen)
    assert ensure(sold, tenant_id) == ours


def test_a_customer_that_was_deleted_at_the_provider_is_said_to_be(sold: Shop) -> None:
    tenant_id = sold.tenant()
    ours = ensure(sold, tenant_id)
    with sold.units.begin(ACTOR) as unit:
        assert forget(unit, "stripe", ours)
        assert not forget(unit, "stripe", ours)
    with pytest.raises(Refusal) as refused:
        ensure(sold, tenant_id)
    assert refused.value.code == "customer_deleted"
