"""What repositories declare is what the migrations made."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, MetaData
from sqlalchemy.dialects.postgresql import DOMAIN

from control_plane.http.nouns import NOUNS
from control_plane.metadata import METADATA
from control_plane.unit import Actor, Units
from runtime.settings import Settings


def test_every_declared_column_is_the_databases_own(migrated: Settings) -> None:
    assert isinstance(NOUNS, tuple)  # importing them brings every declaration
    found = MetaData()
    units = Units(migrated)
    with units.begin(Actor("test")) as unit:
        found.reflect(unit.sql, only=sorted(METADATA.tables))
    units.close()
    for name, table in METADATA.tables.items():
        real = found.tables[name]
        assert {column.name: declared(column) for column in table.columns} == {
            column.name: declared(real.columns[column.name]) for column in table.columns
        }, name
        assert [column.name for column in table.primary_key] == [column.name for column in real.primary_key], name


def declared(column: Column[object]) -> tuple[str, bool]:
    """What a value is in Python, and whether it may be absent. A declaration may leave columns out."""
    kind = column.type.data_type if isinstance(column.type, DOMAIN) else column.type
    return kind.python_type.__name__, bool(column.nullable)


def test_what_a_unit_did_through_psycopgs_own_blocks_is_rolled_back_with_it(migrated: Settings) -> None:
    units = Units(migrated)

    def fail() -> None:
        with units.begin(Actor("test")) as unit:
            with unit.pg.transaction():
                unit.pg.execute("INSERT INTO tenants (tenant_id) VALUES ('rolled back')")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with units.begin(Actor("test")) as unit:
        assert unit.pg.execute("SELECT FROM tenants WHERE tenant_id = 'rolled back'").fetchone() is None
    units.close()
