"""Fixtures of the folders whose tests use the running stack; their conftest files import them by name."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from deploy.embedded.stack import StackAddresses
from runtime.settings import Settings
from tests.running_stack import HOLDER, Holder, corner, wait_for


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> StackAddresses:
    """Where the servers of this run answer. They are shared: use `settings`, and never stop one of these."""
    handed_over = pytestconfig.stash[HOLDER]
    return wait_for(Holder(**handed_over))


@pytest.fixture(scope="module")
def settings(
    stack: StackAddresses, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Settings for this module alone: fresh, empty databases, topic and group names of its own, folders of its own."""
    name = re.sub(r"\W+", "_", request.path.stem.removeprefix("test_"))[:30]
    yield from corner(stack, name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def migrated(settings: Settings) -> Settings:
    """The same, with the schema of this build in both databases and the topics created."""
    from store.migrate import migrate_clickhouse, migrate_postgres
    from store.topics import apply

    migrate_postgres(settings)
    migrate_clickhouse(settings)
    apply(settings)
    return settings
