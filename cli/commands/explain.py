"""`meterline explain SERVICE ENTITY TYPE`."""

from __future__ import annotations

import os

import click

from cli.output import console, plain, print_json, print_table
from cli.stores import both_stores
from runtime.exits import Exit, MeterlineExit
from runtime.logs import configure_logging
from runtime.settings import load_settings
from store.explain import Explanation
from store.explaining import explained


@click.command(help="Show where an event is: position, verdict, row, delta, counter, exports. Exit status 1 when it is unknown.")
@click.argument("service")
@click.argument("entity")
@click.argument("usage_type", metavar="TYPE")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def command(service: str, entity: str, usage_type: str, as_json: bool) -> int:
    """SERVICE, ENTITY and TYPE are sourceService, sourceEntityId and usageType as the sender wrote them."""
    settings = load_settings(dict(os.environ))
    configure_logging(settings, "explain")
    for name, text in (("SERVICE", service), ("ENTITY", entity), ("TYPE", usage_type)):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise click.BadParameter("is not UTF-8, and so in no event that was admitted", param_hint=name) from None
    with both_stores(settings) as (connection, client):
        try:
            found = explained(settings, connection, client, service, entity, usage_type)
        except LookupError as error:
            raise MeterlineExit(Exit.TOPIC_REPLACED, str(error)) from error
    if as_json:
        print_json(found.as_json())
    else:
        _print(found)
    return Exit.OK if found.known else Exit.FAILED


def _print(found: Explanation) -> None:
    console().print(plain(found.verdict), highlight=False, soft_wrap=True)
    lane = found.lane
    as_of = "never yet" if found.as_of is None else f"{found.as_of:%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"
    print_table(
        "looked for",
        ("key", "epoch", "partition", "counted up to", "log end", "counters as of"),
        [(found.key.decode(), lane.epoch, lane.partition, lane.next_offset, _or_unknown(lane.log_end), as_of)],
    )
    rows = [row.as_json() for row in found.rows]
    print_table("admitted", _headings(rows), [list(row.values()) for row in rows])
    turned_away = [(r.position, r.verdict, r.reason, r.detail, r.tenant_id, r.admitted) for r in found.rejects]
    print_table("rejects", ("position", "verdict", "reason", "detail", "tenant", "admitted row"), turned_away)
    if found.delta is not None:
        print_table("announced in", _headings([found.delta.as_json()]), [list(found.delta.as_json().values())])
    if found.counter is not None:
        print_table("counter", _headings([found.counter.as_json()]), [list(found.counter.as_json().values())])
    exports = [line.as_json() for line in found.exports]
    print_table("exports", _headings(exports), [list(line.values()) for line in exports])


def _headings(rows: list[dict[str, object]]) -> list[str]:
    return [name.replace("_", " ") for name in rows[0]] if rows else []


def _or_unknown(offset: int | None) -> str:
    return "Kafka does not answer" if offset is None else str(offset)
