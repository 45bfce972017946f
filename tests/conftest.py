"""Options of the whole suite, and the life of the stack that its integration and end-to-end tests share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.running_stack import HOLDER, RunningStack, may_be_needed

RUNNING = pytest.StashKey[RunningStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        choices=("embedded", "containers"),
        default="embedded",
        help="what the integration tests run on: the embedded servers, or containers where Docker runs",
    )


def pytest_configure(config: pytest.Config) -> None:
    handed_over = getattr(config, "workerinput", {})
    if handed_over:
        if "meterline_stack" in handed_over:
            config.stash[HOLDER] = handed_over["meterline_stack"]
        return
    if config.option.stack == "containers":
        raise pytest.UsageError("--stack=containers: the tests do not run on containers yet; leave the option out")
    if may_be_needed(config):
        # While it starts, the tests are collected.
        config.stash[RUNNING] = RunningStack()
        config.stash[HOLDER] = config.stash[RUNNING].holder.as_dict()


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
