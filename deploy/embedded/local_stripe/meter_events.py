"""Meter events and their summaries. Values stay whole numbers from the request to the answer."""

from __future__ import annotations

import hashlib
import re
from uuid import uuid4

from deploy.embedded.local_stripe import customers, forms, meters
from deploy.embedded.local_stripe.paging import PAGING, list_values
from deploy.embedded.local_stripe.problems import Answer, Problem, absent, missing, wrong
from deploy.embedded.local_stripe.state import State

IDENTIFIER_UNIQUE_S = 24 * 3600
PAST_S_MAX = 35 * 86_400
AHEAD_S_MAX = 300
NAME_CHARS_MAX = 100
PAYLOAD_FIELDS_MAX = 50
WINDOWS_MAX = 10_000
"""Most windows of one grouped summary: more than a year of hours."""

_VALUE = re.compile(r"-?[0-9]{1,15}")
_LOW = 1_000_000


def create(state: State, params: forms.Params) -> Answer:
    """POST /v1/billing/meter_events"""
    forms.only(params, ("event_name", "identifier", "payload", "timestamp"))
    event_name = forms.required_text(params, "event_name", most=NAME_CHARS_MAX)
    identifier = forms.text_of(params, "identifier", most=NAME_CHARS_MAX) or str(uuid4())
    payload = forms.map_of(params, "payload")
    if not payload:
        raise missing("payload")
    if len(payload) > PAYLOAD_FIELDS_MAX:
        raise wrong("payload", f"at most {PAYLOAD_FIELDS_MAX} fields")
    now = state.clock.now()
    at = forms.integer_of(params, "timestamp")
    at = now if at is None else at
    if at < now - PAST_S_MAX:
        raise Problem("The timestamp lies more than 35 days in the past.", code="timestamp_too_far_in_past", param="timestamp")
    if at > now + AHEAD_S_MAX:
        raise Problem("The timestamp lies more than 5 minutes ahead.", code="timestamp_in_future", param="timestamp")
    meter = meters.active(state, event_name)
    if meter is None:
        archived = state.database.execute("SELECT 1 FROM meters WHERE event_name = ?", (event_name,)).fetchone() is not None
        why = "The meter of this event name is not active" if archived else "No meter has this event name"
        raise Problem(f"{why}: {event_name}", code="archived_meter" if archived else "no_meter", param="event_name")
    customer_key = meter["customer_mapping"]["event_payload_key"]
    customer = payload.get(customer_key)
    if not customer:
        raise missing(f"payload[{customer_key}]")
    value = _value(payload, meter["value_settings"]["event_payload_key"], meter["default_aggregation"]["formula"])
    if not customers.exists(state, customer):
        raise absent("customer", customer, f"payload[{customer_key}]", status=400)
    if _known(state, identifier, now):
        raise Problem(f"An event already exists with identifier {identifier}.", param="identifier", should_retry=False)
    state.database.execute(
        "INSERT INTO meter_events (meter, customer, at, value, identifier, received) VALUES (?, ?, ?, ?, ?, ?)",
        (str(meter["id"]), customer, at, value, identifier, now),
    )
    return Answer(
        200,
        {
            "object": "billing.meter_event",
            "created": now,
            "event_name": event_name,
            "identifier": identifier,
            "livemode": False,
            "payload": dict(payload),
            "timestamp": at,
        },
    )


def summaries(state: State, params: forms.Params, meter_id: str) -> Answer:
    """GET /v1/billing/meters/{id}/event_summaries: one summary of [start, end), or one a window; none where no event is."""
    forms.only(params, (*PAGING, "customer", "start_time", "end_time", "value_grouping_window"))
    meter = meters.body_of(state, meter_id)
    customer = forms.required_text(params, "customer")
    start, end = forms.required_integer(params, "start_time"), forms.required_integer(params, "end_time")
    window = forms.choice_of(params, "value_grouping_window", meters.WINDOWS)
    step = meters.WINDOWS[window] if window else 60
    for name, moment in (("start_time", start), ("end_time", end)):
        if moment % step:
            raise wrong(name, f"must lie on a {window or 'minute'} boundary")
    if end <= start:
        raise wrong("end_time", "must lie after start_time")
    if state.database.execute("SELECT 1 FROM customers WHERE id = ?", (customer,)).fetchone() is None:
        raise absent("customer", customer, "customer", status=400)
    spans = [(start, end)]
    if window:
        if (end - start) // step > WINDOWS_MAX:
            raise wrong("end_time", f"want at most {WINDOWS_MAX} windows")
        spans = [(begin, begin + step) for begin in range(start, end, step)]
    found = []
    for begin, stop in reversed(spans):
        total = aggregated(state, meter, customer, begin, stop)
        if total is not None:
            found.append(
                {
                    "id": _summary_id(meter_id, customer, begin, stop),
                    "object": "billing.meter_event_summary",
                    "aggregated_value": total,
                    "end_time": stop,
                    "livemode": False,
                    "meter": meter_id,
                    "start_time": begin,
                }
            )
    url = f"/v1/billing/meters/{meter_id}/event_summaries"
    return Answer(200, list_values(url, "meter event summary", params, found))


def aggregated(state: State, meter: dict[str, object], customer: str, start: int, end: int) -> int | None:
    """The meter's formula over the events of [start, end) that count by now, None where there is none.

    Where the meter has an event_time_window, only the event that was received last in each window is there.
    """
    aggregation = meter["default_aggregation"]
    assert isinstance(aggregation, dict)
    window = meter["event_time_window"]
    kept = (
        "SELECT seq, at, value FROM meter_events WHERE meter = :meter AND customer = :customer AND at >= :start AND at < :end"
        " AND NOT EXISTS (SELECT 1 FROM meter_events_withheld w WHERE w.event = seq AND coalesce(w.until > :now, TRUE))"
    )
    if isinstance(window, str):
        kept = f"SELECT max(seq) AS seq, at, value FROM ({kept}) GROUP BY at / {meters.WINDOWS[window]}"
    found = {"meter": meter["id"], "customer": customer, "start": start, "end": end, "now": state.clock.now()}
    if aggregation["formula"] == "last":
        row = state.database.execute(f"SELECT value FROM ({kept}) ORDER BY at DESC, seq DESC LIMIT 1", found).fetchone()
        return None if row is None else int(row[0])
    count, high, low = state.database.execute(
        f"SELECT count(*), sum(value / {_LOW}), sum(value % {_LOW}) FROM ({kept})",
        found,
    ).fetchone()
    if count == 0:
        return None
    return int(count) if aggregation["formula"] == "count" else int(high) * _LOW + int(low)


def _value(payload: dict[str, str], key: str, formula: str) -> int:
    value = payload.get(key)
    if value is None:
        if formula == "count":
            return 1
        raise missing(f"payload[{key}]")
    if _VALUE.fullmatch(value) is None:
        raise Problem(
            f"The value of a meter event is a whole number of at most 15 digits, not {value[:40]!r}.",
            code="meter_event_invalid_value",
            param=f"payload[{key}]",
        )
    return int(value)


def _known(state: State, identifier: str, now: int) -> bool:
    found = state.database.execute(
        "SELECT 1 FROM meter_events WHERE identifier = ? AND received > ? LIMIT 1", (identifier, now - IDENTIFIER_UNIQUE_S)
    ).fetchone()
    return found is not None


def _summary_id(*parts: object) -> str:
    return "mtrusg_" + hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
