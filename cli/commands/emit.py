"""`meterline emit`: publish events from a file."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

import click

from runtime.exits import Exit, MeterlineExit
from runtime.settings import load_settings

if TYPE_CHECKING:
    from meterline import EmitError, InvalidEvent, Producer, Receipt
    from runtime.settings import Settings

_BATCH = 2_000
_REACHABLE_WITHIN_S = 10.0
_BAD_LINES_SHOWN_MAX = 1_000


@dataclass
class Summary:
    """What became of the lines."""

    lines: int = 0
    acked: int = 0
    spooled: int = 0
    bad: int = 0
    not_acked: int = 0
    seconds: float = 0.0


@click.command(name="emit", short_help="Publish events from a file.")
@click.argument("file", type=click.File("rb"))
@click.option("--json", "as_json", is_flag=True, help="End with the summary as one line of JSON on stdout.")
@click.option("--spool", is_flag=True, help="Keep on disk what Kafka does not take; it is sent by whoever emits next.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0.1, 600), default=30.0, show_default=True, help="Seconds to wait for an ack."
)
def command(file: BinaryIO, as_json: bool, spool: bool, timeout_s: float) -> None:
    """Publish events from FILE, one JSON object a line as on the wire; - is stdin.

    A bad line is reported with its number and reason, and the rest is sent. Sending a file again is safe: what the log
    has is a duplicate. Exit status 1 when any line was bad or not acknowledged, 4 when Kafka cannot be reached.
    """
    from meterline import Producer
    from runtime.kafka import librdkafka_config

    settings = load_settings(dict(os.environ))
    began = time.monotonic()
    summary = Summary()
    with Producer(
        librdkafka_config(settings),
        _topic(settings),
        spool_dir=settings.spool_dir if spool else None,
        spool_bytes_max=settings.spool_bytes_max,
        delivery_timeout_s=timeout_s,
    ) as producer:
        problem = producer.problem(min(timeout_s, _REACHABLE_WITHIN_S))
        if problem is not None and not spool:
            raise MeterlineExit(
                Exit.UNREACHABLE,
                f"nothing was sent: Kafka at {settings.kafka_url} does not take events ({problem}); start it, create the topic "
                "with `meterline topics apply`, correct METERLINE_KAFKA_URL, or use --spool",
            )
        _send_all(file, producer, summary)
        summary.seconds = round(time.monotonic() - began, 3)
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    else:
        click.echo(
            f"{summary.lines} lines: {summary.acked} acknowledged, {summary.spooled} spooled, {summary.bad} bad, "
            f"{summary.not_acked} not acknowledged, in {summary.seconds:.1f} s"
        )
    if summary.acked < summary.lines:
        sys.exit(Exit.FAILED)


def _topic(settings: Settings) -> str:
    """The newest epoch's. Where nobody can say it, the one of the settings: from an older epoch's, events are forwarded."""
    import psycopg

    from runtime import postgres
    from store.epochs import current_epoch

    try:
        with postgres.connect(settings) as connection:
            epoch = current_epoch(connection)
    except psycopg.Error:
        return settings.topic_events
    return settings.topic_events if epoch is None else epoch.topic


def _send_all(file: BinaryIO, producer: Producer, summary: Summary) -> None:
    from meterline import DeliveryFailed, EventDraft, InvalidEvent
    from meterline.lines import numbered_lines
    from meterline_schemas.draft import draft_from_json

    lines = numbered_lines(file)
    with ExitStack() as stack:
        advance = _progress(file, stack)
        while batch := list(islice(lines, _BATCH)):
            drafts: list[EventDraft] = []
            numbers: list[int] = []
            now_ms = time.time_ns() // 1_000_000
            for number, line in batch:
                summary.lines += 1
                try:
                    drafts.append(draft_from_json(line, now_ms))
                    numbers.append(number)
                except InvalidEvent as error:
                    _count(number, error, summary)
            answers = producer.emit_many(drafts)
            for number, answer in zip(numbers, answers, strict=True):
                _count(number, answer, summary)
            advance(sum(len(line) + 1 for _, line in batch))
            if answers and all(isinstance(answer, DeliveryFailed) for answer in answers):
                raise MeterlineExit(
                    Exit.UNREACHABLE,
                    f"Kafka went away: {summary.acked} lines are acknowledged, none after line {numbers[0] - 1}; "
                    "send the file again when it is back, what the log has is a duplicate",
                )


def _count(number: int, answer: Receipt | InvalidEvent | EmitError, summary: Summary) -> None:
    from meterline import InvalidEvent, Receipt

    if isinstance(answer, Receipt):
        if answer.state == "acked":
            summary.acked += 1
        else:
            summary.spooled += 1
        return
    if isinstance(answer, InvalidEvent):
        summary.bad += 1
        told = str(answer)
    else:
        summary.not_acked += 1
        told = f"not acknowledged: {answer}"
    problems = summary.bad + summary.not_acked
    if problems <= _BAD_LINES_SHOWN_MAX:
        click.echo(f"line {number}: {told}", err=True)
    elif problems == _BAD_LINES_SHOWN_MAX + 1:
        click.echo("further lines are only counted", err=True)


def _progress(file: BinaryIO, stack: ExitStack) -> Callable[[int], None]:
    """A function that takes the bytes done: it moves a bar where a person looks on, and does nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda _: None
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    try:
        total = os.fstat(file.fileno()).st_size or None
    except OSError:
        total = None
    bar = Progress(
        TextColumn("sending"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    )
    stack.enter_context(bar)
    task = bar.add_task("sending", total=total)
    return lambda done: bar.update(task, advance=done)
