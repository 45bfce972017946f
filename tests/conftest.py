"""Options of the whole suite, and the life of the stack that its integration and end-to-end tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import pytest

from runtime.exits import Exit
from tests.running_stack import HOLDER, RunningStack, may_be_needed

# How long an example takes says more about the machine than about the rule.
hypothesis.settings.register_profile("meterline", deadline=None)
hypothesis.settings.load_profile("meterline")

RUNNING = pytest.StashKey[RunningStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        choices=("embedded", "containers"),
        default="embedded",
        help="what the integration tests run on: the embedded servers, or containers where Docker runs",
    )


_LONGEST_FIRST = ("chaos", "mutants", "e2e", "simulation", "integration")
"""Folders whose files take longest, in this order, so that none of them is begun when everything else is done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the folders that take longest; within a folder nothing changes."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST)

    items.sort(key=place)


def pytest_configure(config: pytest.Config) -> None:
    handed_over = getattr(config, "workerinput", {})
    if handed_over:
        if "meterline_stack" in handed_over:
            config.stash[HOLDER] = handed_over["meterline_stack"]
        return
    if may_be_needed(config):
        if config.option.stack == "containers":
            _require_containers()
        # While it starts, the tests are collected.
        config.stash[RUNNING] = RunningStack(config.option.stack)
        config.stash[HOLDER] = config.stash[RUNNING].holder.as_dict()


def _require_containers() -> None:
    """Ends the run before any test, with a status that is neither success nor a failed test, where there is no engine."""
    from tests.container_stack import prepare

    code, why = prepare()
    if code != Exit.OK:
        pytest.exit(
            f"--stack=containers: no test was run, for {why}. Remedy: start Docker (DOCKER_HOST says where it is), or leave the "
            f"option out: the same tests then run on the embedded servers. (exit {code.value}: {code.name})",
            returncode=code,
        )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: what a worker is told."""
    if HOLDER in node.config.stash:
        node.workerinput["meterline_stack"] = node.config.stash[HOLDER]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if RUNNING in session.config.stash:
        session.config.stash[RUNNING].stop(keep_logs=exitstatus != 0)
        del session.config.stash[RUNNING]


def pytest_unconfigure(config: pytest.Config) -> None:
    # Reached with the stack running only where the session never began (a wrong option).
    if RUNNING in config.stash:
        config.stash[RUNNING].stop(keep_logs=False)
        del config.stash[RUNNING]
