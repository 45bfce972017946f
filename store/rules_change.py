"""`meterline rules activate`: another version of the rules decides from the log's end on.

Which version decides a record is read by consumers after they have fetched it, under the shared lock. So whoever decides
without knowing of a change had fetched what it decides before the exclusive lock was granted here, and it lies below the
ends that are read under that lock: nobody decides by the old rules what others decide by the new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from meterline_schemas.rules import RULES
from runtime import kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store import audit, topic_state
from store.epochs import CHANGE_RULES, Epoch, check_topic, current_epoch, rules_at
from store.remedies import kafka_answers, postgres_answers

LOCK_TIMEOUT_S = 60


@dataclass(frozen=True)
class RulesPlan:
    """What is in force, and what would be. `ends` is where the log ends now; the change itself reads it anew."""

    epoch: Epoch
    in_force: int
    wanted: int
    ends: tuple[int, ...]

    @property
    def changes(self) -> bool:
        return self.wanted != self.in_force


def plan(settings: Settings, version: int) -> RulesPlan:
    """What `activate` would do. Raises MeterlineExit for a version that cannot be activated."""
    with kafka_answers(settings), postgres_answers(settings), postgres.connect(settings) as connection:
        return _plan(connection, settings, version)


def activate(settings: Settings, version: int, by: str) -> RulesPlan:
    """Lets `version` decide from the log's ends on, which the answer holds. Repeating it changes nothing.

    1. take the exclusive lock; 2. read the log's ends; 3. write rules_from there, and the audit trail; 4. commit.
    """
    options = f"-c statement_timeout={LOCK_TIMEOUT_S * 1000} -c TimeZone=UTC"
    with kafka_answers(settings), postgres_answers(settings), postgres.connect(settings, options=options) as connection:
        connection.execute(CHANGE_RULES)
        found = _plan(connection, settings, version)
        if found.changes:
            connection.execute(
                "INSERT INTO rules_from (epoch, partition, from_offset, version)"
                " SELECT %s, p - 1, e, %s FROM unnest(%s::bigint[]) WITH ORDINALITY AS t(e, p)",
                (found.epoch.epoch, version, list(found.ends)),
            )
            before, after = {"version": found.in_force}, {"version": version, "from": list(found.ends)}
            audit.record(connection, by, [audit.Entry("rules.activated", f"epoch {found.epoch.epoch}", before, after)])
        return found


def in_force(connection: Connection[Any], epoch: Epoch) -> int:
    """The version that decides what comes next."""
    return max(rules_at(connection, epoch.epoch, partition)[-1][1] for partition in range(epoch.partitions))


def _plan(connection: Connection[Any], settings: Settings, version: int) -> RulesPlan:
    epoch = current_epoch(connection)
    if epoch is None:
        raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: run `meterline topics apply` first")
    standing = in_force(connection, epoch)
    if version not in RULES:
        raise MeterlineExit(
            Exit.RULES_UNKNOWN,
            f"this build lacks rules version {version}, it knows {', '.join(map(str, sorted(RULES)))}: nothing was changed. "
            "Deploy a build that knows it to every consumer first, and run this command from it",
        )
    if version < standing:
        raise MeterlineExit(
            Exit.FAILED,
            f"rules version {standing} is in force, and {version} is lower: nothing was changed. What was decided stays decided; "
            "to take rules back, release their contents under a new, higher version",
        )
    admin = kafka.admin(settings)
    check_topic(topic_state.describe(admin, [epoch.topic])[epoch.topic], epoch)
    return RulesPlan(epoch, standing, version, tuple(topic_state.log_ends(admin, epoch.topic, epoch.partitions)))
