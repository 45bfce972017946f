"""The register of who was forgotten, by pseudonym, in both stores: a restored backup of one is put right from the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from clickhouse_connect.driver.client import Client
from psycopg import Connection

from metering.pseudonyms import Kind, Pseudonyms
from runtime.settings import Settings


def pseudonyms_of(settings: Settings) -> Pseudonyms | None:
    """Those of the settings' key; None where no key is set."""
    key = settings.forget_key
    return None if key is None else Pseudonyms(key.get_secret_value().encode())


Positions = Mapping[tuple[int, int], int]
"""(epoch, partition) -> next offset."""


@dataclass(frozen=True)
class Subject:
    """Somebody who was forgotten, in rows below `positions`."""

    kind: Kind
    pseudonym: str
    positions: dict[tuple[int, int], int]


def note(connection: Connection[Any], client: Client, subject: Subject, who: str, kafka_until: datetime) -> None:
    """Writes it into both stores, in the caller's transaction; a later run for the same one reaches further."""
    known = {one.pseudonym: one for one in registered(connection, client) if one.kind == subject.kind}
    positions = dict(subject.positions)
    if subject.pseudonym in known:
        for place, offset in known[subject.pseudonym].positions.items():
            positions[place] = max(offset, positions.get(place, 0))
    text = json.dumps({f"{epoch}:{partition}": offset for (epoch, partition), offset in sorted(positions.items())})
    connection.execute(
        "INSERT INTO forgotten AS f (kind, pseudonym, positions, who, kafka_until) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (kind, pseudonym) DO UPDATE SET positions = excluded.positions, done_at = NULL,"
        " kafka_until = greatest(f.kafka_until, excluded.kafka_until)",
        (subject.kind, subject.pseudonym, text, who, kafka_until),
    )
    client.command(
        "INSERT INTO forgotten VALUES ({kind:String}, {pseudonym:String}, {positions:String}, now64(3))",
        parameters={"kind": subject.kind, "pseudonym": subject.pseudonym, "positions": text},
    )


def done(connection: Connection[Any], subject: Subject) -> None:
    """Nothing of it is left below its positions."""
    connection.execute(
        "UPDATE forgotten SET done_at = now() WHERE kind = %s AND pseudonym = %s", (subject.kind, subject.pseudonym)
    )


def registered(connection: Connection[Any], client: Client) -> list[Subject]:
    """Everybody in either register, each with the furthest positions."""
    found: dict[tuple[Kind, str], dict[tuple[int, int], int]] = {}
    rows = connection.execute("SELECT kind, pseudonym, positions::text FROM forgotten").fetchall()
    rows += [tuple(row) for row in client.query("SELECT kind, pseudonym, positions FROM forgotten FINAL").result_rows]
    for kind, pseudonym, text in rows:
        positions = found.setdefault((cast(Kind, kind), pseudonym), {})
        for place, offset in json.loads(text).items():
            epoch, partition = (int(part) for part in place.split(":"))
            positions[epoch, partition] = max(int(offset), positions.get((epoch, partition), 0))
    return [Subject(kind, pseudonym, positions) for (kind, pseudonym), positions in sorted(found.items())]
