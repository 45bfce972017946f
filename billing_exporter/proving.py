"""I9: Stripe's total is the ledger's is ClickHouse's, or the ledger row is in a state that says why not.

Stripe against the ledger is `reconciling`, which also moves rows where Stripe's summaries take them. The ledger against
ClickHouse: the newest total that Stripe accepted, against the rows below the positions that it was counted to.
"""

from __future__ import annotations

from billing_exporter import ledger
from billing_exporter.closes import Held, closes_of
from billing_exporter.exporter import OPEN_STATES
from billing_exporter.figures import mappings
from billing_exporter.gateway import Account, Gateway
from billing_exporter.ledger import Row
from billing_exporter.reconciling import reconcile
from billing_exporter.sending import Clock, utc_now
from billing_exporter.truth import OpenTotals
from metering.export_states import plain
from runtime.settings import Settings
from store.findings import Check


def check_billed(settings: Settings, gateway: Gateway, account: Account, totals: OpenTotals, now: Clock = utc_now) -> Check:
    """I9 of the account. Raises GatewayError, TruthAway, psycopg.Error."""
    check = Check("I9")
    compared = reconcile(settings, gateway, account, now=now)
    for one in compared:
        check.checked += 1
        if one.verdict == "drift":
            check.add("Stripe's total", _where(one.row), one.row.value, one.found if one.found is not None else "nothing")
        elif one.verdict == "unread":
            check.add("Stripe's total", _where(one.row), one.row.value, f"unread: {one.reason}")
    with ledger.connect(settings) as connection:
        rows = ledger.in_states(connection, account, ("accepted", "confirmed", "closed", "carry_forward"))
        of_starts = mappings(connection, account, sorted({row.period_start for row in rows}))
        waiting = len(ledger.in_states(connection, account, OPEN_STATES))
        closes = {tenant: closes_of(connection, tenant) for tenant in {row.tenant_id for row in rows}}
    with totals() as totals_below:
        truth = {tenant: Held(totals_below, tenant, of_tenant) for tenant, of_tenant in closes.items()}
        for row in rows:
            types = next((of.usage_types for of in of_starts[row.period_start] if of.meter == row.meter), ())
            held = truth[row.tenant_id].of(row, types)
            if held != row.exact_total:
                check.add("ledger's total", _where(row), f"{plain(held)} by the rows in ClickHouse", plain(row.exact_total))
    check.detail = f"{check.checked} totals are the same at Stripe, in the ledger and in ClickHouse"
    if not check.ok:
        check.detail = f"{check.findings_count} of {check.checked} totals differ"
    if waiting:
        check.detail += f"; {waiting} are not at Stripe, each with its reason (`meterline export status`)"
    return check


def _where(row: Row) -> dict[str, object]:
    return {
        "tenant_id": row.tenant_id,
        "meter": row.meter,
        "period_start": row.period_start.isoformat(),
        "revision": row.revision,
    }
