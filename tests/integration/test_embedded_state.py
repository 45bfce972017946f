"""A data folder belongs to one stack at a time, and finds its data, ports and secrets again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.embedded.errors import EmbeddedError, StackRunsElsewhereError
from deploy.embedded.stack import EmbeddedStack
from deploy.embedded.state import birth

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder whose stack is gone afterwards, with what it keeps elsewhere."""
    yield tmp_path / "data"
    EmbeddedStack(tmp_path / "data", log=print).forget()
    assert not (tmp_path / "data").exists()


def _stack(data_dir: Path, *servers: str) -> EmbeddedStack:
    return EmbeddedStack(data_dir, log=print, servers=servers or ("postgres",), durable=False)


def _value(url: str, sql: str) -> object:
    with psycopg.connect(url, connect_timeout=10, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
    return row and row[0]


def test_a_second_start_finds_the_same_data_address_and_password(data_dir: Path) -> None:
    first = _stack(data_dir)
    before = first.start()
    _value(before.postgres, "CREATE TABLE kept (n int)")
    first.stop()
    assert birth(before.pids["postgres"]) is None
    second = _stack(data_dir)
    after = second.start()
    try:
        assert after.postgres == before.postgres
        assert _value(after.postgres, "SELECT count(*) FROM kept") == 0
    finally:
        second.stop()


def test_a_second_stack_on_the_same_folder_is_refused_and_harms_nothing(data_dir: Path) -> None:
    first = _stack(data_dir)
    addresses = first.start()
    try:
        with pytest.raises(StackRunsElsewhereError, match=rf"process {os.getpid()}\).*\./run down"):
            _stack(data_dir).start()
        assert _value(addresses.postgres, "SELECT 1") == 1
    finally:
        first.stop()


def test_a_restart_keeps_the_address(data_dir: Path) -> None:
    stack = _stack(data_dir, "postgres", "stripe")
    before = stack.start()
    try:
        for kill in (False, True):
            for name in ("postgres", "stripe"):
                old = stack.addresses().pids[name]
                assert stack.restart(name, kill=kill) != old
                assert birth(old) is None
        after = stack.addresses()
        assert (after.postgres, after.stripe) == (before.postgres, before.stripe)
        assert stack.ended() == {}
    finally:
        stack.stop()


def test_a_server_that_ends_by_itself_is_noticed(data_dir: Path) -> None:
    stack = _stack(data_dir)
    pid = stack.start().pids["postgres"]
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert stack.ended() == {"postgres": -signal.SIGKILL}
        stack.restart("postgres")
        assert stack.ended() == {}
    finally:
        stack.stop()


def test_a_port_that_another_program_took_is_replaced(data_dir: Path) -> None:
    first = _stack(data_dir)
    before = first.start()
    first.stop()
    port = int(before.postgres.rpartition(":")[2].partition("/")[0])
    said: list[str] = []
    second = EmbeddedStack(data_dir, log=said.append, servers=("postgres",), durable=False)
    with socket.create_server(("127.0.0.1", port)):
        after = second.start()
    try:
        assert after.postgres != before.postgres
        assert any(f"port {port} of postgres is taken" in line for line in said)
    finally:
        second.stop()


def test_secrets_lie_in_files_that_are_not_for_everybody(data_dir: Path) -> None:
    stack = _stack(data_dir, "postgres", "clickhouse", "stripe")
    addresses = stack.start()
    stack.stop()
    passwords = [addresses.postgres.partition(":")[2].partition(":")[2].partition("@")[0], addresses.stripe_key]
    assert all(len(password) > 20 for password in passwords)
    open_to_all = [path for path in data_dir.rglob("*") if path.is_file() and path.stat().st_mode & 0o004]
    for path in open_to_all:
        content = path.read_bytes()
        assert not any(password.encode() in content for password in passwords), path


def test_a_failed_start_leaves_nothing_running_and_the_folder_free(data_dir: Path) -> None:
    stack = _stack(data_dir)
    place = Path(str(_value(stack.start().postgres, "SHOW data_directory")))
    stack.stop()
    with (place / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedError, match=r"(?s)Postgres ended with status 1.*no_such_setting"):
        _stack(data_dir, "postgres", "stripe").start()
    again = _stack(data_dir, "stripe")
    again.start()
    again.stop()


def test_after_a_kill_of_the_whole_stack_the_next_one_starts_on_the_same_data(data_dir: Path) -> None:
    command = [sys.executable, "-m", "deploy.embedded", "--data", str(data_dir), "--servers", "postgres"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True) as holder:
        assert holder.stdout is not None
        before = json.loads(holder.stdout.readline())
        _value(before["postgres"], "CREATE TABLE kept (n int)")
        holder.kill()
    stack = _stack(data_dir)
    after = stack.start()
    try:
        assert after.postgres == before["postgres"]
        assert birth(before["pids"]["postgres"]) is None
        assert _value(after.postgres, "SELECT count(*) FROM kept") == 0
    finally:
        stack.stop()


def test_a_signal_ends_the_command_and_scratch_removes_all_of_its_data(tmp_path: Path) -> None:
    data, written = tmp_path / "data", tmp_path / "addresses.json"
    command = [sys.executable, "-W", "error", "-m", "deploy.embedded", "--data", str(data), "--servers", "postgres,stripe"]
    with subprocess.Popen(
        [*command, "--scratch", "--write", str(written)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as holder:
        assert holder.stdout is not None
        addresses = json.loads(holder.stdout.readline())
        assert json.loads(written.read_text()) == addresses
        assert written.stat().st_mode & 0o077 == 0
        holder.terminate()
        assert holder.wait(20) == 0
    assert not data.exists()
    assert not written.exists()
    assert [birth(pid) for pid in addresses["pids"].values()] == [None, None]
