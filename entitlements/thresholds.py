"""The look-out for thresholds: totals that changed are held against their limits, and what is reached is raised once.

Only totals that changed since the last look are read. A total's time of change is the start of the transaction that counted
it, which is seen when that commits; so every pass looks back over OVERLAP, and passes by what it has seen with that very time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg

from entitlements.queries import statement
from entitlements.standings import Ask, Found, Windows, found, parameters
from metering import periods
from metering.alerts import reached
from meterline_schemas.alert import Alert
from runtime import metrics
from runtime.repeating import repeat_until
from runtime.settings import Settings
from store import alerts
from store.alerts import Changed

logger = logging.getLogger(__name__)

PAGE_ROWS = 5_000
TOGETHER_MAX = 200
"""Totals whose standing one statement reads."""
IDLE_S = 1.0
OVERLAP = timedelta(seconds=120)
"""Longer than a counting transaction may take."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Place = tuple[datetime, str, str]


class Thresholds:
    """For one thread. Safe beside other copies: one looks at a time, and an alert is raised once whoever raises it."""

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[], psycopg.Connection[Any]],
        promised: Callable[[], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._topic = settings.topic_alerts
        self._tell = settings.alert_webhook_url is not None
        self._connect = connect
        self._promised = promised
        self._now = now
        self._sql = statement("standings")
        self._seen: dict[tuple[str, str], datetime] = {}
        """When the totals of the last OVERLAP had changed that were looked at."""
        self._pass: tuple[datetime, datetime, _Place] | None = None
        """Of a pass that takes several pages: when it began, since when it looks, how far it is."""

    def run_until(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set. Outlives an absent Postgres; what changes meanwhile is looked at afterwards."""
        repeat_until(stop, "entitlements", "thresholds", self._connect, self._round)

    def _round(self, connection: psycopg.Connection[Any]) -> float:
        """A page; how long to wait before the next one."""
        self.look(connection)
        return IDLE_S if self._pass is None else 0.0

    def look(self, connection: psycopg.Connection[Any]) -> int:
        """One page, in one transaction; how many alerts were raised. Raises psycopg.Error, and then nothing was."""
        with connection.transaction():
            if not alerts.only_one_looks(connection):
                self._pass = None
                return 0
            if self._pass is None:
                since = alerts.looked_until(connection) - OVERLAP
                self._pass = (self._now(), since, (since, "", ""))
            began, since, place = self._pass
            page = alerts.changed_since(connection, since, place, PAGE_ROWS)
            unseen = [one for one in page if self._seen.get((one.tenant_id, one.usage_type)) != one.changed_at]
            raised = self._raise([one for one in unseen if one.thresholds and one.limit_period is not None], connection)
            if len(page) < PAGE_ROWS:
                alerts.look_on(connection, began)
        self._seen.update({(one.tenant_id, one.usage_type): one.changed_at for one in unseen})
        if len(page) < PAGE_ROWS:
            self._pass = None
            oldest = began - OVERLAP
            self._seen = {key: changed_at for key, changed_at in self._seen.items() if changed_at > oldest}
        else:
            last = page[-1]
            self._pass = (began, since, (last.changed_at, last.tenant_id, last.usage_type))
        if raised:
            self._promised()
            metrics.ALERTS.labels("raised").inc(raised)
            logger.info("thresholds reached", extra={"alerts": raised})
        return raised

    def _raise(self, changed: Sequence[Changed], connection: psycopg.Connection[Any]) -> int:
        raised = 0
        for start in range(0, len(changed), TOGETHER_MAX):
            some = changed[start : start + TOGETHER_MAX]
            windows = Windows.of(self._now().date())
            asks = [Ask(one.tenant_id, one.usage_type) for one in some]
            rows = connection.execute(self._sql, parameters(asks, windows)).fetchall()
            standings = [found(row, windows.on) for row in rows]
            due = [alert for one, at in zip(some, standings, strict=True) for alert in self._alerts(one, at, windows.on)]
            known = alerts.known(connection, [alert.alert_id for alert in due])
            for alert in due:
                if alert.alert_id not in known:
                    raised += alerts.raise_alert(connection, alert, self._topic, tell=self._tell)
        return raised

    def _alerts(self, changed: Changed, at: Found, today: date) -> list[Alert]:
        """The alerts of what the usage of the running period has reached."""
        limit = at.standing.limit
        if limit is None or limit.quantity is None:
            return []
        period = periods.current(changed.limit_period, today, changed.anchor_day)
        lifetime = changed.limit_period == "lifetime"
        return [
            Alert(
                tenant_id=changed.tenant_id,
                usage_type=changed.usage_type,
                limit_period=changed.limit_period,
                period_start=None if lifetime else period.start,
                period_end=None if lifetime else period.end,
                threshold=threshold,
                used=at.standing.used,
                limit=limit.quantity,
                hard_stop=limit.hard,
                raised_at_ms=(self._now() - _EPOCH) // timedelta(milliseconds=1),
            )
            for threshold in reached(at.standing.used, limit, changed.thresholds)
        ]
