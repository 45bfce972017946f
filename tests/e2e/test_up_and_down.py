"""`up` and `down` around their edges: a second one, one that is interrupted, one that cannot start, and what they leave."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.stack_file import supervisor_of
from cli.system import LocalSystem
from deploy.embedded.state import State
from runtime.exits import Exit

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(180)

EVENT = (
    '{"tenantId":"tnt_123","sourceService":"analysis-worker","sourceEntityId":"job-9",'
    '"usageType":"PHOTO_ANALYSIS_DEEP","quantity":"2"}\n'
)


def environment(**more: str) -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith("METERLINE_") or name.endswith("CACHE_DIR")
    } | more


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "cli", *words]


def meterline(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=150, check=False
    )


def wait_until(done: Callable[[], object], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_setting_that_is_wrong_is_named_before_anything_starts(tmp_path: Path) -> None:
    for number, words in enumerate((("up",), ("up", "--detach"), ("demo",))):
        data = tmp_path / str(number)
        refused = meterline(*words, "--data", str(data), METERLINE_RANGE_WINDOW_MS="many")
        assert refused.returncode == Exit.SETTINGS, refused.stderr
        assert "METERLINE_RANGE_WINDOW_MS" in refused.stdout + refused.stderr
        assert not (data / "kafka").exists()


@pytest.mark.parametrize("how", [(), ("--detach",)])
def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path: Path, how: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = meterline("up", *how, "--data", str(tmp_path), "--port", port)
    assert refused.returncode == Exit.SETTINGS, refused.stderr
    assert f"port {port} is taken" in refused.stdout + refused.stderr
    assert "--port" in refused.stdout + refused.stderr
    assert not (tmp_path / "kafka").exists()


def test_a_second_up_in_the_foreground_leaves_the_first_ones_addresses_alone(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{}")
    held = State(tmp_path)
    held.acquire()
    try:
        refused = meterline("up", "--data", str(tmp_path))
    finally:
        held.release()
    assert refused.returncode == Exit.FAILED
    assert "runs on" in refused.stderr
    assert (tmp_path / "stack.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_starting_ends_everything_at_once(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "kafka" / "format.log"
    up = subprocess.Popen(command("up", "--data", str(tmp_path)), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    wait_until(log.exists)
    up.send_signal(number)
    said, _ = up.communicate(timeout=30)
    assert up.returncode == Exit.FAILED
    assert "Meterline is up" not in said
    assert not (tmp_path / "stack.json").exists()
    free = State(tmp_path)
    free.acquire()  # nobody has the folder any more
    free.release()


def test_down_stops_an_up_that_is_still_starting(tmp_path: Path) -> None:
    up = subprocess.Popen(command("up", "--data", str(tmp_path)), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    wait_until(lambda: supervisor_of(tmp_path) == up.pid)
    stopped = meterline("down", "--data", str(tmp_path))
    up.wait(30)
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped" in stopped.stdout


@pytest.mark.parametrize("left", ["", "{", "[]", '{"supervisor": "x"}', '{"supervisor": 1}'])
def test_down_tidies_up_a_stack_file_that_nobody_keeps(tmp_path: Path, left: str) -> None:
    (tmp_path / "stack.json").write_text(left)
    tidied = meterline("down", "--data", str(tmp_path))
    assert (tidied.returncode, tidied.stderr) == (0, "")
    assert not (tmp_path / "stack.json").exists()


def test_other_commands_join_in_by_the_env_file_and_secrets_are_not_for_everybody(tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    (folder / "stack.json").write_text('{"supervisor": 4194304}')  # of one that was killed
    started = meterline("up", "--detach", "--data", str(folder))
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        stack = json.loads((folder / "stack.json").read_text("utf-8"))
        secrets = [stack["service_secret"], stack["stripe_key"]]
        secrets += [stack[name].split(":")[2].partition("@")[0] for name in ("postgres", "clickhouse", "clickhouse_readonly")]
        holding = [
            path
            for path in folder.rglob("*")
            if path.is_file()
            and path.stat().st_size < 1 << 20
            and any(secret.encode() in path.read_bytes() for secret in secrets)
        ]
        assert {folder / "stack.json", folder / "env", folder / "logs" / "up.log"} <= set(holding)
        assert [path for path in holding if path.stat().st_mode & 0o077 and path.parent.stat().st_mode & 0o077] == []
        for pid in (pid for pid in stack["processes"].values() if pid is not None):
            words = Path(f"/proc/{pid}/cmdline").read_text("utf-8")
            assert [secret for secret in secrets if secret in words] == []

        file = tmp_path / "events.ndjson"
        file.write_text(EVENT)
        assert f"METERLINE_STACK='{folder}'" in (folder / "env").read_text("utf-8")
        script = f"set -a; . {shlex.quote(str(folder / 'env'))}; set +a; exec {shlex.join(command('emit', str(file), '--json'))}"
        sent = subprocess.run(
            ["/bin/sh", "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert sent.returncode == 0, sent.stderr
        assert json.loads(sent.stdout)["acked"] == 1
    finally:
        assert meterline("down", "--data", str(folder)).returncode == 0
    assert not (folder / "env").exists()


def test_settings_that_name_no_server_reach_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "METERLINE_RANGE_EVENTS_MAX": "77",
        "METERLINE_POSTGRES_URL": "postgresql://elsewhere/x",
        "METERLINE_KAFKA_SECURITY_PROTOCOL": "SSL",
        "PORT": "80",
        "HOST": "0.0.0.0",  # noqa: S104
        "DATABASE_URL": "postgresql://elsewhere/x",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("METERLINE_KAFKA_URL", raising=False)
    settings = LocalSystem(tmp_path, print).settings_of_the_environment()
    assert settings.range_events_max == 77
    assert settings.kafka_security_protocol == "PLAINTEXT"
    assert (settings.http_host, settings.http_port) == ("127.0.0.1", None)
    assert "elsewhere" not in settings.postgres_url.get_secret_value()
    monkeypatch.setenv("KAFKA_URL", "broker.example:9093")
    settings = LocalSystem(tmp_path, print).settings_of_the_environment()
    assert (settings.kafka_url, settings.kafka_security_protocol) == ("broker.example:9093", "SSL")
    # A shell that has read the env file of a running system brings no broker along.
    monkeypatch.setenv("METERLINE_STACK", "/some/folder")
    assert LocalSystem(tmp_path, print).settings_of_the_environment().kafka_url == "localhost:9092"
