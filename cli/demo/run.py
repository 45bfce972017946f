"""The demonstration, step by step. Belongs to the main thread: it spawns and watches children."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from cli.demo import proof, traffic
from cli.demo.stripe_side import exported_quantity, run_command
from cli.system import LocalSystem
from deploy.embedded.processes import Child, spawn
from runtime.exits import Exit, MeterlineExit

PRODUCERS = 4
COUNTED_WITHIN_S = 120.0
MARK = "demo-data"
"""A file that says: this folder is the demonstration's, to be emptied before a run."""

KILL_CONSUMER_AT, KILL_AGGREGATOR_AT = 0.10, 0.40
RANGE_EVENTS_MAX = "5000"
"""Small ranges, so that both kills fall into the middle of work."""

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What the demonstration ends with."""

    proof: proof.Proof
    acked: int
    kills: int
    allowed: int
    denied: int
    months: list[str]
    versions: dict[str, str]
    seconds: float
    differences: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.differences

    def missing(self) -> list[str]:
        """What had to happen and did not."""
        wanted = {
            "a record that was acknowledged is not in the log": self.acked <= self.proof.sent,
            "no check was allowed": self.allowed > 0,
            "no check was denied": self.denied > 0,
            "the consumer and the aggregator were not both killed": self.kills == 2,
            **{f"no record was {verdict}": count > 0 for verdict, count in self.proof.by_verdict.items()},
        }
        return [problem for problem, held in wanted.items() if not held]

    def as_json(self) -> dict[str, Any]:
        """The last line of `--json`."""
        found = self.proof
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "stack": self.versions,
            "sent": found.sent,
            **found.by_verdict,
            "clickhouse_quantity": str(found.clickhouse_quantity),
            "postgres_quantity": str(found.postgres_quantity),
            "stripe_quantity": str(found.stripe_quantity),
            "kills": self.kills,
            "allowed": self.allowed,
            "denied": self.denied,
            "acked": self.acked,
            "months": self.months,
            "differences": self.differences,
        }


class Demo:
    """One run on a data folder of its own."""

    def __init__(self, data_dir: Path, events: int, seed: int, say: Say) -> None:
        self._say, self._events, self._seed = say, events, seed
        self._began = time.monotonic()
        self._system = LocalSystem(data_dir, say, over={"METERLINE_RANGE_EVENTS_MAX": RANGE_EVENTS_MAX})
        self._kills = 0
        self._progress: proof.Progress | None = None

    def run(self, examples: Path) -> Outcome:
        """Runs it all on empty servers and takes everything down again; after a failure the data stays to be looked at.

        Raises MeterlineExit when a step does not end in time.
        """
        data_dir = self._system.data_dir
        if data_dir.exists() and any(data_dir.iterdir()):
            if not (data_dir / MARK).exists():
                raise MeterlineExit(Exit.USAGE, f"{data_dir} holds something else; name an empty folder with --data")
            self._forget()
        data_dir.mkdir(parents=True, exist_ok=True)
        (data_dir / MARK).touch()
        try:
            outcome = self._run(examples)
        finally:
            if self._progress is not None:
                self._progress.close()
            self._system.stop()
        if outcome.ok:
            self._forget()
        return outcome

    def _forget(self) -> None:
        for file in (MARK, "plans.yaml", "go-on"):
            (self._system.data_dir / file).unlink(missing_ok=True)
        self._system.forget()

    def _run(self, examples: Path) -> Outcome:
        plans = _catalog(examples, self._system.data_dir / "plans.yaml")
        self._step("starting Kafka, Postgres, ClickHouse, a local Stripe and the stages")
        self._system.start(plans)
        settings = self._system.settings
        run_command(self._system.environment, "stripe", "setup", "--yes")

        self._progress = progress = proof.Progress(settings)
        self._step(f"sending {self._events:,} records from {PRODUCERS} processes; two kill -9 on the way")
        producers = self._spawn_producers()
        self._kill_on_the_way(progress, producers)
        acked = self._wait_for_producers(producers)
        self._wait_until_counted(progress)

        self._step("asking what each tenant may still use")
        allowed, denied = self._check_all()

        months = proof.months_with_events(settings)
        self._step(f"exporting {' and '.join(months)} to Stripe")
        for month in months:
            run_command(self._system.environment, "export", "run", "--period", month)

        self._step("asking every store for its own figures")
        found = proof.ask_stores(settings)
        found.stripe_quantity = exported_quantity(settings, months)
        found.compare()
        outcome = Outcome(
            found, acked, self._kills, allowed, denied, months, self._system.addresses.versions, time.monotonic() - self._began
        )
        outcome.differences = [*found.differences, *outcome.missing()]
        return outcome

    # -- steps ---------------------------------------------------------------------------------------------------

    def _spawn_producers(self) -> list[Child]:
        now = datetime.now(UTC).isoformat()
        self._hold = self._system.data_dir / "go-on"
        self._hold.unlink(missing_ok=True)
        base, extra = divmod(self._events, PRODUCERS)
        return [
            spawn(
                f"producer {number}",
                [
                    *(sys.executable, "-m", "cli.demo.producing", "--share", str(number), "--seed", str(self._seed)),
                    *("--events", str(base + (number < extra)), "--now", now, "--hold", str(self._hold)),
                ],
                log=self._system.data_dir / "logs" / f"producer-{number}.log",
                env=self._system.environment,
            )
            for number in range(PRODUCERS)
        ]

    def _kill_on_the_way(self, progress: proof.Progress, producers: list[Child]) -> None:
        """kill -9 of the consumer, then of the aggregator, each while records wait; then the producers send the rest."""
        for name, share in (("consumer", KILL_CONSUMER_AT), ("aggregator", KILL_AGGREGATOR_AT)):
            self._watch_until(partial(self._reached, progress, share, producers), f"{share:.0%} of the records")
            pid = self._system.kill(name)
            self._kills += 1
            self._say(f"  {progress.counted():,} of {progress.sent():,} records counted: kill -9 {pid}, the {name}")
        self._hold.touch()

    def _wait_for_producers(self, producers: list[Child]) -> int:
        self._watch_until(lambda: _ended(producers), "the producers' end")
        for producer in producers:
            if producer.poll() != 0:
                raise MeterlineExit(Exit.FAILED, f"{producer.name} ended with status {producer.poll()}:\n{producer.tail()}")
        return sum(int(json.loads(producer.logged().splitlines()[-1])["acked"]) for producer in producers)

    def _wait_until_counted(self, progress: proof.Progress) -> None:
        sent = progress.sent()
        self._watch_until(lambda: progress.counted() >= sent, "every record counted")
        self._say(f"  every one of {sent:,} records is counted")

    def _check_all(self) -> tuple[int, int]:
        """One check for each tenant and usage type, over HTTP, as an upstream service asks."""
        connection = HTTPConnection(urlsplit(self._system.http()).netloc, timeout=10)
        headers = {"X-Service-Secret": self._system.service_secret, "Content-Type": "application/json"}
        answers = []
        for name in traffic.tenants():
            for usage_type in traffic.USAGE_TYPES:
                body = json.dumps({"tenantId": name, "usageType": usage_type, "quantity": 1})
                connection.request("POST", "/v1/billing/entitlements/check", body, headers)
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    raise MeterlineExit(Exit.FAILED, f"a check was answered with {answer.status}: {content.decode()}")
                answers.append(bool(json.loads(content)["allowed"]))
        connection.close()
        allowed = sum(answers)
        self._say(f"  of {len(answers)} checks over HTTP {allowed} allowed, {len(answers) - allowed} denied")
        return allowed, len(answers) - allowed

    # -- waiting -------------------------------------------------------------------------------------------------

    def _reached(self, progress: proof.Progress, share: float, producers: list[Child]) -> bool:
        return progress.counted() >= share * self._events or _ended(producers)

    def _watch_until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + COUNTED_WITHIN_S
        shown = time.monotonic()
        while not done():
            self._system.watch()
            if time.monotonic() > deadline:
                raise MeterlineExit(
                    Exit.FAILED, f"waited {COUNTED_WITHIN_S:.0f} s for {what} in vain; logs are in {self._system.data_dir}/logs"
                )
            if time.monotonic() - shown > 1.0:
                shown = time.monotonic()
                if self._progress is not None:
                    self._say(f"  {self._progress.counted():,} of {self._progress.sent():,} records counted")
            time.sleep(0.02)

    def _step(self, what: str) -> None:
        self._say(f"[{time.monotonic() - self._began:5.1f} s] {what}")


def _ended(producers: list[Child]) -> bool:
    return all(producer.poll() is not None for producer in producers)


def _catalog(examples: Path, path: Path) -> Path:
    """The example catalog with the demonstration's tenants, as a file."""
    catalog = yaml.safe_load(examples.read_text("utf-8"))
    for name, plan in traffic.tenants().items():
        catalog["tenants"][name] = {"name": name, "plan": plan}
    path.write_text(yaml.safe_dump(_texts(catalog)), "utf-8")
    return path


def _texts(value: object) -> object:
    """With every fraction and every day as text, for the catalog takes no float."""
    if isinstance(value, dict):
        return {str(name): _texts(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_texts(one) for one in value]
    return str(value) if isinstance(value, float | date) else value
