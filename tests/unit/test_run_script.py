"""`./run` goes on at once when nothing changed, and says what to do when it cannot go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import bootstrap

ROOT = Path(__file__).parents[2]
NEEDED = (
    "run",
    "deploy/bootstrap.py",
    "requirements/dev.txt",
    "requirements/uv.txt",
    "pyproject.toml",
    "schemas/pyproject.toml",
    "producers/pyproject.toml",
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that `./run` looks at, in a folder whose name has a space."""
    folder = tmp_path / "a clone"
    for name in NEEDED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with the ordinary tools and no Python, no uv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "dirname", "readlink", "sha256sum"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def _run(clone: Path, *arguments: str, path: Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(path), "HOME": str(clone.parent), **variables}
    return subprocess.run(
        [str(clone / "run"), *arguments],
        env=environment,
        cwd=cwd or clone,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _pretend_set_up(clone: Path, tools: Path) -> None:
    """An environment whose commands say how they were called, with the stamp of this moment."""
    bin_folder = clone / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name in ("python", "meterline"):
        (bin_folder / name).write_text(f'#!/bin/sh\necho "{name}: $PWD: $*"; echo "data: ${{METERLINE_DATA_DIR-}}"; exit 7\n')
        (bin_folder / name).chmod(0o755)
    script = (clone / "run").read_text()
    stamp = script.partition("stamp_now() {")[2].partition("\n}")[0]
    made = subprocess.run(
        ["/bin/sh", "-c", f"root='{clone}'\n{stamp}"],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    (clone / ".venv" / "meterline-stamp").write_text(made.stdout)


def _make_python(tools: Path) -> None:
    """This interpreter under the name that `./run` looks for first."""
    (tools / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tools / "python3").chmod(0o755)


def _make_uv(tools: Path, script: str) -> None:
    (tools / "uv").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "uv").chmod(0o755)


def test_help_needs_nothing_and_names_every_command_it_has(clone: Path, tools: Path) -> None:
    for arguments in ((), ("--help",), ("-h",), ("help",)):
        shown = _run(clone, *arguments, path=tools)
        assert shown.returncode == 0
        offered = {line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ") and line[2] not in " ."}
        assert {"demo", "up", "down", "setup", "test", "check", "lock", "bench", "chaos", "mutants"} <= offered
    assert not (clone / ".venv").exists()


def test_a_warm_start_passes_the_command_on_and_needs_neither_python_nor_uv(clone: Path, tools: Path, tmp_path: Path) -> None:
    _pretend_set_up(clone, tools)
    ran = _run(clone, "topics", "apply", "--flag", "two words", path=tools, cwd=tmp_path)
    assert ran.stderr == ""
    # The caller's folder stays, so that file names mean what they say; the data lies with the clone.
    assert ran.stdout == f"meterline: {tmp_path}: topics apply --flag two words\ndata: {clone}/.meterline\n"
    assert ran.returncode == 7


def test_a_symbolic_link_to_it_works_from_anywhere(clone: Path, tools: Path, tmp_path: Path) -> None:
    _pretend_set_up(clone, tools)
    elsewhere = tmp_path / "on the path"
    elsewhere.mkdir()
    (elsewhere / "direct").symlink_to(clone / "run")
    (elsewhere / "run").symlink_to("direct")  # a link to a link, and a relative one
    ran = _run(elsewhere, "up", path=tools, cwd=tmp_path)
    assert (ran.stdout, ran.stderr) == (f"meterline: {tmp_path}: up\ndata: {clone}/.meterline\n", "")


def test_a_data_folder_that_was_named_is_kept(clone: Path, tools: Path) -> None:
    _pretend_set_up(clone, tools)
    assert "data: /elsewhere\n" in _run(clone, "up", path=tools, METERLINE_DATA_DIR="/elsewhere").stdout


@pytest.mark.parametrize("changed", ["requirements/dev.txt", "pyproject.toml", "schemas/pyproject.toml"])
def test_a_changed_lock_or_project_is_noticed(clone: Path, tools: Path, changed: str) -> None:
    _pretend_set_up(clone, tools)
    with (clone / changed).open("a") as file:
        file.write("\n# one more line\n")
    ran = _run(clone, "up", path=tools)
    assert ran.returncode == 1
    assert "no Python" in ran.stderr


def test_a_clone_that_moved_is_set_up_anew(clone: Path, tools: Path) -> None:
    _pretend_set_up(clone, tools)
    moved = clone.with_name("moved")
    clone.rename(moved)
    assert "no Python" in _run(moved, "up", path=tools).stderr


def test_without_python_the_remedy_is_named(clone: Path, tools: Path) -> None:
    ran = _run(clone, "setup", path=tools)
    assert ran.returncode == 1
    assert "no Python of 3.11 or newer" in ran.stderr
    assert "apt install python3" in ran.stderr
    assert "METERLINE_PYTHON" in ran.stderr


def test_a_python_that_is_too_old_is_passed_over(clone: Path, tools: Path) -> None:
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)
    assert "no Python of 3.11 or newer" in _run(clone, "setup", path=tools).stderr


def test_a_python_that_was_named_and_does_not_do_is_not_replaced_by_another(clone: Path, tools: Path) -> None:
    _make_python(tools)
    ran = _run(clone, "setup", path=tools, METERLINE_PYTHON="/no such/python", METERLINE_SETUP_DISK_MB="999999999")
    assert ran.returncode == 1
    assert "METERLINE_PYTHON is /no such/python" in ran.stderr


def test_without_disk_the_remedy_is_named(clone: Path, tools: Path) -> None:
    _make_python(tools)
    ran = _run(clone, "setup", path=tools, METERLINE_SETUP_DISK_MB="999999999")
    assert ran.returncode == 1
    assert "MB free" in ran.stderr
    assert "uv cache clean" in ran.stderr
    assert not (clone / ".venv").exists()


def test_an_unreachable_registry_is_told_apart_and_the_next_try_starts_over(clone: Path, tools: Path) -> None:
    _make_python(tools)
    # A uv whose every download fails, as behind a wall.
    _make_uv(tools, 'case "$1$2" in --version) echo "uv 0.9.1";; pipsync) echo "could not connect" >&2; exit 2;; esac')
    for _ in range(2):
        ran = _run(clone, "setup", path=tools, METERLINE_SETUP_DISK_MB="1")
        assert ran.returncode == bootstrap.UNREACHABLE
        assert "could not connect" in ran.stderr
        for remedy in ("UV_DEFAULT_INDEX", "HTTPS_PROXY", "SSL_CERT_FILE"):
            assert remedy in ran.stderr
        assert not (clone / ".venv" / "meterline-stamp").exists()


def test_setting_up_syncs_the_lock_with_hashes_and_then_the_three_of_ours_offline(clone: Path, tools: Path) -> None:
    _make_python(tools)
    _make_uv(
        tools,
        f'echo "$*" >> "{clone}/calls"; case "$1" in --version) echo "uv 0.9.1";; venv) mkdir -p "{clone}/.venv/bin";; esac',
    )
    mkdir = shutil.which("mkdir")
    assert mkdir is not None
    (tools / "mkdir").symlink_to(mkdir)
    assert bootstrap.UV_AT_LEAST <= (0, 9)
    ran = _run(clone, "unknown-command", path=tools, METERLINE_SETUP_DISK_MB="1")
    assert "set up in" in ran.stderr
    calls = (clone / "calls").read_text().splitlines()
    assert [" ".join(call.split()[:2]) for call in calls] == ["--version", "venv --quiet", "pip sync", "pip install"]
    assert "--require-hashes" in calls[2]
    for option in ("--offline", "--no-index", "--no-deps", "--no-build-isolation"):
        assert option in calls[3]
    assert calls[3].count("-e ") == 3
    assert (clone / ".venv" / "meterline-stamp").read_text().startswith(f"{clone}\n")


def test_a_uv_that_is_only_a_shim_or_too_old_is_not_used(tmp_path: Path) -> None:
    for name, script in {"shim": "exit 127", "old": "echo uv 0.4.30", "right": "echo uv 0.13.8"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    assert [bootstrap._works(str(tmp_path / name)) for name in ("shim", "old", "right", "absent")] == [False, False, True, False]


def test_without_uv_pip_and_ensurepip_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "WORK", tmp_path)
    monkeypatch.setattr(bootstrap, "_has_module", lambda name: False)
    with pytest.raises(bootstrap.SetupError, match="apt install python3-venv"):
        bootstrap._get_uv()


def test_a_half_made_environment_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/no/such/python")
    (venv / "leftover").touch()
    monkeypatch.setattr(bootstrap, "VENV", venv)
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(bootstrap, "_run", lambda *command: calls.append(command))
    bootstrap._make_venv("uv")
    assert not venv.exists()
    assert calls[0][:2] == ("uv", "venv")


@pytest.mark.parametrize("name", ["app", "embedded", "dev", "uv"])
def test_a_lock_names_no_host_and_none_of_our_own_packages(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text
    assert "index-url" not in text
    pinned = {line.split("==")[0] for line in text.splitlines() if "==" in line and not line.startswith((" ", "#"))}
    assert pinned
    assert not pinned & set(bootstrap.MEMBERS)


def test_everything_that_is_called_is_executable() -> None:
    for name in ("run", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK)
