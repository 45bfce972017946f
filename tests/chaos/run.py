"""One run: start, faults from the seed for so many minutes, quiesce, check. The driver is the supervisor, too."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import checking, faults
from tests.chaos.log_truth import LogTruth, read_log
from tests.chaos.machine import Machine
from tests.chaos.producing import sent_count
from tests.chaos.progress import Progress
from tests.chaos.traffic import Traffic

_EVEN_WITHIN_S = 240.0
_PRODUCERS_WITHIN_S = 90.0
_LONG_RUN_MIN = 10.0


@dataclass(frozen=True)
class Order:
    """What is asked for."""

    minutes: float
    seed: int
    rate: float
    producers: int


class ChaosRun:
    """`run` blocks for the minutes asked for and what checking takes. For the main thread."""

    def __init__(self, order: Order, say: Callable[[str], None]) -> None:
        self._order, self._tell = order, say
        self._began = time.monotonic()
        self._done: Counter[str] = Counter()
        self._recovery_s_max = 0.0
        self.folder = Path(tempfile.mkdtemp(prefix="meterline-chaos-"))

    def run(self) -> dict[str, Any]:
        """The figures of the last line. The folder is removed when all is well, and kept when it is not."""
        order, findings = self._order, checking.Findings()
        with Machine(self.folder, order.seed, order.rate, order.producers, self._say) as machine:
            progress = Progress(machine.settings)
            try:
                self._until_first_counted(machine, progress)
                self._under_fire(machine, progress, findings)
                figures = self._at_rest(machine, progress, findings)
            finally:
                progress.close()
            self._say(f"exits: {machine.exits()}")
        for line in findings.said:
            self._say(line)
        if figures["ok"]:
            machine.forget()
        else:
            self._say(f"NOT ok. The data and logs are kept in {self.folder}")
            self._say(f"replay: ./run chaos --minutes {order.minutes:g} --seed {order.seed}")
        return figures

    def _say(self, line: str) -> None:
        self._tell(f"[{time.monotonic() - self._began:6.1f} s] {line}")

    def _until_first_counted(self, machine: Machine, progress: Progress) -> None:
        begun = progress.until_begun(_EVEN_WITHIN_S, machine.watch)
        if not begun or progress.until_even(_EVEN_WITHIN_S, machine.watch) is None:
            raise TimeoutError("nothing was counted although nothing was done to the system yet")
        self._say(f"all runs; log ends {progress.ends()}")

    def _under_fire(self, machine: Machine, progress: Progress, findings: checking.Findings) -> None:
        order = self._order
        dice = random.Random(order.seed)
        stop_s_max = 60.0 if order.minutes >= _LONG_RUN_MIN else 14.0
        until = time.monotonic() + order.minutes * 60
        # One of each kind at least, however short the run.
        first = list(faults.KINDS)
        dice.shuffle(first)
        while time.monotonic() < until:
            fault = faults.draw(dice, stop_s_max)
            if first:
                while fault.kind != first[-1]:
                    fault = faults.draw(dice, stop_s_max)
                first.pop()
            self._done[fault.kind] += 1
            self._say(fault.what)
            fault.apply(machine, machine.watch)
            # Half of the faults meet a system that has not recovered from the one before.
            if dice.random() < 0.5:
                self._recovered(machine, progress, findings)

    def _recovered(self, machine: Machine, progress: Progress, findings: checking.Findings) -> None:
        took = progress.until_even(_EVEN_WITHIN_S, machine.watch)
        if took is None:
            findings.add("lost", f"not counted within {_EVEN_WITHIN_S:.0f} s of the last fault", [progress.counted()])
            return
        self._recovery_s_max = max(self._recovery_s_max, took)
        self._say(f"  even again after {took:.1f} s")

    def _at_rest(self, machine: Machine, progress: Progress, findings: checking.Findings) -> dict[str, Any]:
        order, settings = self._order, machine.settings
        self._say("the faults are over")
        machine.stop_producers(_PRODUCERS_WITHIN_S)
        self._recovered(machine, progress, findings)
        committed = self._committed_at_end(machine, progress)
        self._say("reading the log")
        truth = read_log(settings, Traffic(order.seed, machine.began_ms))
        self._say(f"comparing {sum(truth.ends)} records with the stores")
        acked = checking.acknowledged(self.folder, order.producers, truth, findings)
        checking.compare(settings, committed, truth, findings)
        checking.reconcile(machine.environment, findings)
        findings.add("drift", "fences that moved back", progress.moved_back)
        findings.add("drift", "processes that left with a code that nothing excuses", machine.forbidden_exits().items())
        sent = sum(sent_count(self.folder / f"sent-{producer}") for producer in range(order.producers))
        return self._figures(findings, truth, sent, acked, checking.repairs(settings))

    def _committed_at_end(self, machine: Machine, progress: Progress) -> list[int] | None:
        """The committed offsets, once they are the log's ends; a little behind the fence is the way of the chain."""
        until = time.monotonic() + 30.0
        while True:
            machine.watch()
            committed, ends = progress.committed(), progress.ends()
            if (committed is not None and committed == ends) or time.monotonic() > until:
                return committed
            time.sleep(0.2)

    def _figures(self, findings: checking.Findings, truth: LogTruth, sent: int, acked: int, repairs: int) -> dict[str, Any]:
        totals: Counter[str] = Counter()
        for figures in truth.figures.values():
            for verdict in ("admitted", "duplicate", "conflict", "invalid"):
                totals[verdict] += getattr(figures, verdict)
        return {
            "ok": findings.none,
            "seed": self._order.seed,
            "minutes": self._order.minutes,
            "faults": faults.counted(self._done),
            "sent": sent,
            "acked": acked,
            "admitted": totals["admitted"],
            "duplicate": totals["duplicate"],
            "conflict": totals["conflict"],
            "invalid": totals["invalid"],
            "lost": findings.lost,
            "double": findings.double,
            "drift": findings.drift,
            "repairs": repairs,
            "recovery_s_max": round(self._recovery_s_max, 1),
        }
