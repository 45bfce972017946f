"""One suite of the client, run against the endpoint in memory and against the real one: what holds in a user's unit tests
holds in production."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from meterline import Ask, AsyncMeter, EventDraft, Meter, MeterRefused, MeterUnavailable, ReservationDenied
from meterline.testing import Limit, MemoryMeterline
from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline, wait_until
from tests.integration.entitlement_data import SERVICE, put_catalog
from tests.integration.serving import execute, serving

WAIT_S = 8.0
_PRO: dict[str, Limit | int | None] = {"DEEP": 10, "SOFT": Limit(10, hard=False), "FREE": None}
_FEATURES = {"analysis": True, "off": False}
_numbers = itertools.count(1)


@dataclass
class Endpoint:
    """Something to call, and tenants to call it for."""

    meter: Meter
    asynchronous: Callable[[], AsyncMeter]
    make_tenant: Callable[[str], None]

    def tenant(self) -> str:
        """A new one, on a plan with DEEP (10, hard), SOFT (10, soft) and FREE (unlimited)."""
        name = f"tnt_client_{next(_numbers)}"
        self.make_tenant(name)
        return name

    def use(self, tenant_id: str, usage_type: str, quantity: str | int, entity: str = "job") -> None:
        recorded = self.meter.record(
            EventDraft(tenant_id, SERVICE, f"{tenant_id}/{entity}", usage_type, quantity), wait_counted_s=WAIT_S
        )
        assert recorded.counted is True, recorded


def _in_memory() -> Endpoint:
    limits: dict[str, dict[str, Limit | int | None]] = {}
    features: dict[str, dict[str, bool]] = {}
    memory = MemoryMeterline(limits, features)

    def make_tenant(name: str) -> None:
        limits[name], features[name] = dict(_PRO), _FEATURES

    return Endpoint(memory.meter(), memory.async_meter, make_tenant)


@pytest.fixture(scope="module")
def real(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder: Path = tmp_path_factory.mktemp("pipeline")
    secret, _ = put_catalog(migrated)

    def make_tenant(name: str) -> None:
        execute(
            migrated, [("INSERT INTO tenants (tenant_id, plan_id, status, anchor_day) VALUES (%s, 'pro', 'active', 1)", (name,))]
        )

    with ExitStack() as running:
        pipeline = running.enter_context(Pipeline(migrated, folder))
        pipeline.consume()
        pipeline.aggregate()
        server = running.enter_context(serving(migrated, secret=secret))
        url = f"http://127.0.0.1:{server.port}"
        meter = running.enter_context(Meter(url, secret=secret, timeout_s=20))
        make_tenant("tnt_first")
        wait_until("asOf is known", lambda: meter.check("tnt_first", "DEEP").as_of)
        yield Endpoint(meter, lambda: AsyncMeter(url, secret=secret, timeout_s=20), make_tenant)


@pytest.fixture(params=["memory", "real"])
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    if request.param == "memory":
        return _in_memory()
    found = request.getfixturevalue("real")
    assert isinstance(found, Endpoint)
    return found


def test_a_check_answers_to_the_last_millionth(endpoint: Endpoint) -> None:
    tenant = endpoint.tenant()
    endpoint.use(tenant, "DEEP", "9.999999")
    allowed = endpoint.meter.check(tenant, "DEEP", "0.000001")
    denied = endpoint.meter.check(tenant, "DEEP", Decimal("0.000002"))
    assert (allowed.allowed, allowed.reason, allowed.remaining) == (True, "within_plan", Decimal("0.000001"))
    assert (denied.allowed, denied.reason, denied.hard_stop) == (False, "limit_exceeded", True)
    assert denied.used == Decimal("9.999999")
    assert denied.as_of is not None


def test_a_soft_limit_lets_more_pass_and_says_so(endpoint: Endpoint) -> None:
    tenant = endpoint.tenant()
    endpoint.use(tenant, "SOFT", 12)
    found = endpoint.meter.check(tenant, "SOFT")
    assert (found.allowed, found.reason, found.is_exceeded, found.remaining) == (True, "overage", True, Decimal(0))


def test_what_has_no_limit_remains_without_a_figure(endpoint: Endpoint) -> None:
    found = endpoint.meter.check(endpoint.tenant(), "FREE", 999_999)
    assert (found.allowed, found.reason, found.limit, found.remaining) == (True, "unlimited", None, None)


def test_an_unknown_tenant_and_an_unplanned_type_are_denied_and_no_error(endpoint: Endpoint) -> None:
    assert endpoint.meter.check("tnt_nobody", "DEEP").reason == "unknown_tenant"
    assert endpoint.meter.check(endpoint.tenant(), "UNPLANNED").reason == "not_in_plan"


def test_features_are_on_off_or_not_in_the_plan(endpoint: Endpoint) -> None:
    tenant = endpoint.tenant()
    found = [endpoint.meter.check_feature(tenant, feature) for feature in ("analysis", "off", "unplanned")]
    assert [(one.allowed, one.reason) for one in found] == [
        (True, "within_plan"),
        (False, "feature_disabled"),
        (False, "not_in_plan"),
    ]


def test_many_checks_are_answered_in_their_order(endpoint: Endpoint) -> None:
    tenant = endpoint.tenant()
    found = endpoint.meter.check_many([Ask(tenant, "DEEP", 11), Ask(tenant, "FREE"), Ask("tnt_nobody", "DEEP")])
    assert [one.reason for one in found] == ["limit_exceeded", "unlimited", "unknown_tenant"]


def test_what_is_recorded_twice_counts_once(endpoint: Endpoint) -> None:
    tenant = endpoint.tenant()
    for _ in range(3):
        endpoint.use(tenant, "DEEP", "1.5", entity="the same")
    assert endpoint.meter.check(tenant, "DEEP").used == Decimal("1.5")


def test_of_a_batch_each_event_has_its_own_result(endpoint: Endpoint) -> None:
    tenant = endpoint.tenant()
    drafts = [
        EventDraft(tenant, SERVICE, f"{tenant}/1", "DEEP", 1),
        EventDraft("tnt_nobody", SERVICE, f"{tenant}/2", "DEEP", 1),
        EventDraft(tenant, SERVICE, f"{tenant}/3", "FREE", "0.5", metadata={"region": "eu"}),
    ]
    found = endpoint.meter.record_many(drafts, wait_counted_s=WAIT_S)
    assert (found.accepted, found.refused) == (2, 1)
    assert [(one.index, one.state, one.code) for one in found.results] == [
        (0, "acked", None),
        (1, "refused", "unknown_tenant"),
        (2, "acked", None),
    ]
    assert endpoint.meter.check(tenant, "FREE").used == Decimal("0.5")


def test_recording_for_an_unknown_tenant_is_refused_with_its_code(endpoint: Endpoint) -> None:
    with pytest.raises(MeterRefused) as refused:
        endpoint.meter.record(EventDraft("tnt_nobody", SERVICE, "e", "DEEP", 1))
    assert (refused.value.status, refused.value.code) == (422, "unknown_tenant")


def test_a_summary_says_how_each_type_stands(endpoint: Endpoint) -> None:
    tenant = endpoint.tenant()
    endpoint.use(tenant, "SOFT", "12.25")
    summary = endpoint.meter.summary(tenant)
    (line,) = [line for line in summary.usage if line.usage_type == "SOFT"]
    assert summary.tenant_id == tenant
    assert (line.used, line.limit, line.overage, line.is_exceeded) == (Decimal("12.25"), Decimal(10), Decimal("2.25"), True)
    with pytest.raises(MeterRefused) as refused:
        endpoint.meter.summary("tnt_nobody")
    assert refused.value.status == 404


def test_what_is_held_cannot_be_taken_by_another_and_comes_back_when_it_is_released(endpoint: Endpoint) -> None:
    tenant = endpoint.tenant()
    source = {"source_service": SERVICE, "ttl_s": 60}
    held = endpoint.meter.reserve(tenant, "DEEP", "9.5", source_entity_id=f"{tenant}/1", **source)  # type: ignore[arg-type]
    assert held.held.remaining == Decimal("0.5")
    with pytest.raises(ReservationDenied) as denied:
        endpoint.meter.reserve(tenant, "DEEP", 1, source_entity_id=f"{tenant}/2", **source)  # type: ignore[arg-type]
    assert denied.value.code == "limit_exceeded"
    assert endpoint.meter.check(tenant, "DEEP").reserved == Decimal("9.5")
    held.release()
    held.release()
    assert endpoint.meter.check(tenant, "DEEP", 10).allowed
    with pytest.raises(MeterRefused):
        held.settle()


def test_a_block_that_ends_settles_and_one_that_fails_releases(endpoint: Endpoint) -> None:
    tenant = endpoint.tenant()
    with endpoint.meter.reserve(tenant, "DEEP", 4, source_service=SERVICE, source_entity_id=f"{tenant}/1") as held:
        settled = held.settle("1.5", metadata={"region": "eu"})
    assert (settled.quantity, settled.expired) == (Decimal("1.5"), False)
    with endpoint.meter.reserve(tenant, "DEEP", 3, source_service=SERVICE, source_entity_id=f"{tenant}/2"):
        pass
    with (
        pytest.raises(RuntimeError, match="the work failed"),
        endpoint.meter.reserve(tenant, "DEEP", 5, source_service=SERVICE, source_entity_id=f"{tenant}/3"),
    ):
        raise RuntimeError("the work failed")
    wait_until("both are counted", lambda: endpoint.meter.check(tenant, "DEEP").used == Decimal("4.5"))
    wait_until("nothing is held any more", lambda: endpoint.meter.check(tenant, "DEEP").reserved == 0)


def test_the_asynchronous_client_holds_and_settles(endpoint: Endpoint) -> None:
    tenant = endpoint.tenant()

    async def main() -> None:
        async with endpoint.asynchronous() as meter:
            async with meter.reserve(tenant, "DEEP", 4, source_service=SERVICE, source_entity_id=f"{tenant}/a") as held:
                await held.settle(2)
            other = await meter.reserve(tenant, "DEEP", 4, source_service=SERVICE, source_entity_id=f"{tenant}/b")
            await other.release()
            with pytest.raises(RuntimeError, match="the work failed"):
                async with meter.reserve(tenant, "DEEP", 8, source_service=SERVICE, source_entity_id=f"{tenant}/c"):
                    raise RuntimeError("the work failed")

    asyncio.run(main())
    wait_until("it is counted, and nothing is held", lambda: endpoint.meter.check(tenant, "DEEP").remaining == Decimal(8))


def test_the_asynchronous_client_says_the_same(endpoint: Endpoint) -> None:
    tenant = endpoint.tenant()

    async def main() -> None:
        async with endpoint.asynchronous() as meter:
            recorded = await meter.record(EventDraft(tenant, SERVICE, f"{tenant}/a", "DEEP", 4), wait_counted_s=WAIT_S)
            assert recorded.counted is True
            checks = await asyncio.gather(*(meter.check(tenant, "DEEP", quantity) for quantity in (6, 7)))
            assert [one.allowed for one in checks] == [True, False]
            assert (await meter.check_many([Ask(tenant, "DEEP", 6)]))[0].allowed
            assert (await meter.check_feature(tenant, "analysis")).allowed
            assert (await meter.summary(tenant)).tenant_id == tenant
            many = await meter.record_many([EventDraft(tenant, SERVICE, f"{tenant}/b", "FREE", 1)])
            assert many.accepted == 1

    asyncio.run(main())


def test_in_memory_a_hold_ends_with_its_time_and_settling_it_counts_all_the_same() -> None:
    now = [1_795_255_200.0]
    memory = MemoryMeterline({"tnt_123": {"DEEP": 10}}, now_s=lambda: now[0])
    meter = memory.meter()
    held = meter.reserve("tnt_123", "DEEP", 10, source_service=SERVICE, source_entity_id="job_1", ttl_s=30)
    now[0] += 31
    assert meter.check("tnt_123", "DEEP", 10).allowed
    assert held.settle(3).expired
    assert memory.used("tnt_123", "DEEP") == 3


def test_memory_that_is_away_behaves_like_a_cut_network() -> None:
    memory = MemoryMeterline({"tnt_123": {"DEEP": 10}}, away=True)
    with pytest.raises(MeterUnavailable, match="nothing answers"):
        memory.meter(attempts_max=1).check("tnt_123", "DEEP")
    assert memory.meter(attempts_max=1, on_unavailable="allow").check("tnt_123", "DEEP").allowed


def test_memory_keeps_what_was_recorded_for_a_test_to_look_at() -> None:
    memory = MemoryMeterline({"tnt_123": {"DEEP": 10}})
    draft = EventDraft("tnt_123", SERVICE, "job_1", "DEEP", "1.5", metadata={"region": "eu"})
    memory.meter().record(draft)
    memory.meter().record(draft)
    (event,) = memory.events
    assert (event.source_entity_id, event.metadata) == ("job_1", b'{"region":"eu"}')
    assert memory.used("tnt_123", "DEEP") == Decimal("1.5")
