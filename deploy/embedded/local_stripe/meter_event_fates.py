"""What becomes of a meter event after it was taken: counted later, cancelled, or found wrong and reported."""

from __future__ import annotations

from deploy.embedded.local_stripe import events, forms, meters
from deploy.embedded.local_stripe.problems import Answer, Problem, missing
from deploy.embedded.local_stripe.state import State, Work

CANCELLED_WITHIN_S = 24 * 3600


def adjust(state: State, params: forms.Params) -> Answer:
    """POST /v1/billing/meter_event_adjustments: cancels an event by its identifier, within a day of its receipt."""
    forms.only(params, ("event_name", "type", "cancel"))
    event_name = forms.required_text(params, "event_name", most=100)
    if forms.required_text(params, "type") != "cancel":
        raise Problem("Invalid type: must be cancel", code="parameter_invalid", param="type")
    identifier = forms.map_of(params, "cancel").get("identifier")
    if not identifier:
        raise missing("cancel[identifier]")
    meter = meters.active(state, event_name)
    if meter is None:
        raise Problem(f"No active meter has the event name {event_name}", code="no_meter", param="event_name")
    row = state.database.execute(
        "SELECT seq, received FROM meter_events WHERE identifier = ? AND meter = ? ORDER BY seq DESC LIMIT 1",
        (identifier, str(meter["id"])),
    ).fetchone()
    if row is None:
        raise Problem(f"No event of {event_name} has the identifier {identifier}.", code="resource_missing", param="cancel")
    if row[1] < state.clock.now() - CANCELLED_WITHIN_S:
        raise Problem("An event can be cancelled within 24 hours of its receipt only.", param="cancel")
    never_counts(state, row[0])
    body: dict[str, object] = {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "event_name": event_name,
        "livemode": False,
        "status": "complete",
        "type": "cancel",
    }
    return Answer(200, body)


def counts_later(work: Work, delay_s: int) -> Work:
    """The creation of an event that enters summaries only `delay_s` of the clock after it was taken."""

    def delayed(state: State) -> Answer:
        answer = work(state)
        until = state.clock.now() + delay_s
        state.database.execute("INSERT INTO meter_events_withheld VALUES (?, ?)", (_newest(state), until))
        return answer

    return delayed


def found_wrong(work: Work) -> Work:
    """The creation of an event that is answered with 200, never counts, and is reported by a thin event."""

    def rejected(state: State) -> Answer:
        answer = work(state)
        never_counts(state, _newest(state))
        meter = meters.active(state, str(answer.body["event_name"]))
        assert meter is not None
        report(state, str(meter["id"]), str(answer.body["identifier"]))
        return answer

    return rejected


def never_counts(state: State, event: int) -> None:
    """The event stays on record and is in no summary."""
    state.database.execute("INSERT OR REPLACE INTO meter_events_withheld VALUES (?, NULL)", (event,))


def report(state: State, meter: str, identifier: str) -> None:
    """The thin event about an event that was found wrong."""
    now = events.instant(state.clock.now())
    sample = {"error_message": "The customer of the event cannot be billed.", "request": {"identifier": identifier}}
    kind = {"code": "meter_event_customer_not_found", "error_count": 1, "sample_errors": [sample]}
    events.record_thin(
        state,
        "v1.billing.meter.error_report_triggered",
        {"id": meter, "type": "billing.meter", "url": f"/v1/billing/meters/{meter}"},
        {
            "developer_message_summary": "There is 1 invalid event",
            "reason": {"error_count": 1, "error_types": [kind]},
            "validation_start": now,
            "validation_end": now,
        },
    )


def _newest(state: State) -> int:
    return int(state.database.execute("SELECT max(seq) FROM meter_events").fetchone()[0])
