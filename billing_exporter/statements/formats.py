"""A statement as CSV, as JSON, and as a page that is read and printed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from html import escape
from typing import Any
from urllib.parse import quote, urlencode

from billing_exporter.statements.statement import Statement, Told, TypeTotal
from metering.export_states import plain
from store.billed_lines import BilledLine

CSV_COLUMNS = (
    "tenant_id", "period_start", "period_end", "state", "usage_type", "unit", "day", "source_service", "kind", "quantity",
    "events", "carried_forward", "events_link",
)  # fmt: skip

# A spreadsheet takes text that begins like this for a formula, and runs it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_csv(statement: Statement, base_url: str) -> str:
    """A row for each line; they add up to the totals. What is billed later is not in it."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\r\n")
    rows.writerow(CSV_COLUMNS)
    units = {total.usage_type: total.unit for total in statement.totals}
    for line in statement.lines:
        rows.writerow(
            (
                _cell(statement.tenant_id),
                statement.period.start,
                statement.period.end,
                statement.state,
                _cell(line.usage_type),
                _cell(units[line.usage_type]),
                line.day,
                _cell(line.source_service),
                line.kind,
                plain(line.quantity),
                line.events,
                "yes" if statement.carried(line) else "no",
                events_link(statement.tenant_id, line, base_url),
            )
        )
    return out.getvalue()


def as_document(statement: Statement, base_url: str) -> dict[str, Any]:
    """For programs: quantities as decimal strings."""

    def shown(line: BilledLine) -> dict[str, Any]:
        return {
            "usage_type": line.usage_type,
            "day": line.day.isoformat(),
            "source_service": line.source_service,
            "kind": line.kind,
            "quantity": plain(line.quantity),
            "events": line.events,
            "events_link": events_link(statement.tenant_id, line, base_url),
        }

    return {
        "tenant": statement.tenant_id,
        "name": statement.tenant_name,
        "period_start": statement.period.start.isoformat(),
        "period_end": statement.period.end.isoformat(),
        "state": statement.state,
        "at": _instant(statement.at),
        "positions": dict(statement.positions),
        "totals": [
            {
                "usage_type": total.usage_type,
                "description": total.description,
                "unit": total.unit,
                "meter": total.meter,
                "quantity": plain(total.quantity),
                "carried_forward": plain(total.carried_in),
                "corrected": plain(total.corrected),
                "events": total.events,
            }
            for total in statement.totals
        ],
        "lines": [shown(line) | {"carried_forward": statement.carried(line)} for line in statement.lines],
        "billed_later": [shown(line) for line in statement.later],
        "told_to_stripe": [_told(told) for told in statement.told],
    }


def events_link(tenant_id: str, line: BilledLine, base_url: str) -> str:
    """Where the events of a line's type and day are shown."""
    query = {"view": "events", "from": line.day, "to": _day_after(line.day), "usageType": line.usage_type}
    return f"{base_url.rstrip('/')}/v1/billing/usage/{quote(tenant_id, safe='')}?{urlencode(query)}"


def as_page(statement: Statement, base_url: str) -> str:
    """One HTML document that needs nothing beside it."""
    who = statement.tenant_name or statement.tenant_id
    last_day = statement.period.end - timedelta(days=1)
    closed = statement.state == "closed"
    told_state = (
        f"Closed {_shown_instant(statement.at)}. The totals of this period do not change any more."
        if closed
        else f"Running: as counted {_shown_instant(statement.at)}. The totals still change until the period is closed."
    )
    parts = [
        f"<header><p class='kind'>Usage statement</p><h1>{escape(who)}</h1>",
        f"<dl><dt>Tenant</dt><dd>{escape(statement.tenant_id)}</dd><dt>Period</dt><dd>{_shown_day(statement.period.start)} to"
        f" {_shown_day(last_day)} (UTC)</dd><dt>State</dt><dd class='{statement.state}'>{told_state}</dd></dl></header>",
        _totals_table(statement.totals),
    ]
    for total in statement.totals:
        lines = [line for line in statement.lines if line.usage_type == total.usage_type]
        parts.append(_lines_section(statement, total, lines, base_url))
    if statement.later:
        parts.append(
            "<section><h2>Arrived after the close</h2><p>Usage of this period, or of an earlier one, that reached us too late. It"
            " is <b>not</b> in the totals above: it is billed in a later period and shown there as carried forward.</p>"
            + _lines_table(statement, statement.later, base_url, with_type=True)
            + "</section>"
        )
    if statement.told:
        parts.append(_told_section(statement.told))
    places = ", ".join(f"{escape(place)} below {offset}" for place, offset in sorted(statement.positions.items())) or "nothing"
    parts.append(
        "<footer><p>Quantities are exact; nothing on this page is rounded. Every line is the sum of single events, which can be"
        f" looked up by its link. Events are counted by their place in the log (epoch:partition): {places}.</p></footer>"
    )
    title = escape(f"Usage statement {statement.tenant_id} {statement.period.start}")
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


def _totals_table(totals: Iterable[TypeTotal]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(total.description or total.usage_type)}"
        f"<span class='code'>{escape(total.usage_type)}</span></th><td class='n total'>{_number(total.quantity)}</td>"
        f"<td>{escape(total.unit)}</td><td class='n'>{_number(total.carried_in) if total.carried_in else ''}</td>"
        f"<td class='n'>{_number(total.corrected) if total.corrected else ''}</td><td class='n'>{_count(total.events)}</td></tr>"
        for total in totals
    )
    if not rows:
        return "<section><h2>Totals</h2><p>Nothing was used.</p></section>"
    return (
        "<section><h2>Totals</h2><table><thead><tr><th>Usage</th><th class='n'>Quantity</th><th>Unit</th>"
        "<th class='n'>of which carried forward</th><th class='n'>of which corrections</th><th class='n'>Events</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></section>"
    )


def _lines_section(statement: Statement, total: TypeTotal, lines: list[BilledLine], base_url: str) -> str:
    foot = (
        f"<tfoot><tr><th colspan='3'>Total</th><td class='n total'>{_number(total.quantity)}</td>"
        f"<td class='n'>{_count(total.events)}</td><td></td></tr></tfoot>"
    )
    return (
        f"<section class='type'><h2>{escape(total.description or total.usage_type)}"
        f"<span class='code'>{escape(total.usage_type)}</span></h2>"
        + _lines_table(statement, lines, base_url, with_type=False, foot=foot)
        + "</section>"
    )


def _lines_table(statement: Statement, lines: Iterable[BilledLine], base_url: str, *, with_type: bool, foot: str = "") -> str:
    rows = []
    for line in lines:
        notes = []
        if not with_type and statement.carried(line):
            notes.append("carried forward")
        if line.kind == "correction":
            notes.append("correction")
        link = escape(events_link(statement.tenant_id, line, base_url), quote=True)
        rows.append(
            f"<tr><td class='day'>{_shown_day(line.day)}</td>"
            + (f"<td>{escape(line.usage_type)}</td>" if with_type else "")
            + f"<td>{escape(line.source_service)}</td><td class='note'>{', '.join(notes)}</td>"
            f"<td class='n'>{_number(line.quantity)}</td><td class='n'>{_count(line.events)}</td>"
            f"<td><a href='{link}'>events</a></td></tr>"
        )
    return (
        "<table class='lines'><thead><tr><th>Day</th>"
        + ("<th>Usage</th>" if with_type else "")
        + "<th>From</th><th></th><th class='n'>Quantity</th><th class='n'>Events</th><th></th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody>{foot}</table>"
    )


def _told_section(told: Iterable[Told]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one.meter)}</td><td>{escape(', '.join(one.usage_types))}</td><td class='n'>{_number(one.total)}</td>"
        f"<td class='n'>{_count(one.scale)}</td><td class='n'>{_count(one.value)}</td><td class='n'>{_number(one.remainder)}</td>"
        f"<td>{escape(one.state)}{'' if one.livemode else ' (test mode)'}</td></tr>"
        for one in told
    )
    return (
        "<section><h2>Told to Stripe</h2><p>Stripe counts in whole units of a meter: the total times the meter's scale. What is"
        " less than one unit is kept and passes to the next period.</p><table><thead><tr><th>Meter</th><th>Usage</th>"
        "<th class='n'>Total</th><th class='n'>Scale</th><th class='n'>Units</th><th class='n'>Kept</th>"
        "<th>State</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></section>"
    )


def _told(told: Told) -> dict[str, Any]:
    return {
        "account": told.account,
        "livemode": told.livemode,
        "meter": told.meter,
        "usage_types": list(told.usage_types),
        "total": plain(told.total),
        "scale": told.scale,
        "carried": plain(told.carried),
        "value": told.value,
        "remainder": plain(told.remainder),
        "revision": told.revision,
        "state": told.state,
        "reason": told.reason,
    }


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _number(value: Decimal) -> str:
    """With thousands set apart, and no digit lost."""
    whole, _, fraction = plain(abs(value)).partition(".")
    return ("\u2212" if value < 0 else "") + f"{int(whole):,}".replace(",", "\u202f") + (f".{fraction}" if fraction else "")


def _count(value: int) -> str:
    return _number(Decimal(value))


def _shown_day(day: date) -> str:
    return f"{day.day} {day:%b %Y}"


def _shown_instant(at: datetime) -> str:
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _day_after(day: date) -> date:
    return day + timedelta(days=1)


_STYLE = """
:root { --ink: #1c2430; --soft: #5c6675; --line: #d9dee5; --shade: #f5f7f9; --late: #8a5a00; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 14px/1.45 system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.5rem; }
header { border-bottom: 2px solid var(--ink); padding-bottom: 1rem; }
.kind { margin: 0; color: var(--soft); text-transform: uppercase; letter-spacing: .08em; font-size: .8rem; }
h1 { margin: .1rem 0 1rem; font-size: 1.8rem; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .5rem; font-size: 1.1rem; overflow-wrap: anywhere; break-after: avoid; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; } dd.running { color: var(--late); font-weight: 600; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th, td { overflow-wrap: anywhere; }
thead th { color: var(--soft); font-weight: 600; font-size: .85rem; border-bottom-color: var(--ink); }
tbody th { font-weight: 600; }
tfoot th, tfoot td { border-bottom: 0; border-top: 1px solid var(--ink); font-weight: 600; background: var(--shade); }
.n { text-align: right; white-space: nowrap; } .total { font-weight: 700; } .day { white-space: nowrap; }
.code { display: block; color: var(--soft); font: .8rem/1.3 ui-monospace, Consolas, monospace; font-weight: 400; }
.note { color: var(--late); white-space: nowrap; }
footer { margin-top: 2.5rem; padding-top: .75rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .85rem; }
a { color: #0b5cad; }
@page { size: A4; margin: 16mm 14mm; }
@media print {
  body { font-size: 10pt; } main { max-width: none; padding: 0; } thead { display: table-header-group; }
  tfoot { display: table-row-group; } tr { break-inside: avoid; } a { color: inherit; text-decoration: none; }
  .lines td:last-child, .lines th:last-child { display: none; } tfoot th, tfoot td { background: none; }
}
"""
