"""Makes `.venv` from the locked requirements. Started by `./run` with a bare Python; standard library only.

`bootstrap.py setup` leaves a stamp (from METERLINE_STAMP) in `.venv` as its last step, under a lock, so that a setup
that was cut short is done again. `bootstrap.py lock [UV-ARGUMENT...]` resolves the requirements anew.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "meterline-stamp"
WORK = ROOT / ".meterline"
OWN_UV = WORK / "uv"
REQUIREMENTS = ROOT / "requirements"
MEMBERS = ("meterline", "meterline-schemas", "meterline-server")
UV_AT_LEAST = (0, 8)
DISK_MB = 3_000

FAILED, UNREACHABLE = 1, 4  # of runtime.exits, which cannot be imported before there is an environment


class SetupError(Exception):
    """What went wrong and what to do about it."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def say(line: str) -> None:
    """What is being done, and what went wrong."""
    sys.stderr.write(f"run: {line}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0, 1, or 4 when a registry cannot be reached."""
    try:
        if arguments[:1] == ["lock"]:
            lock(arguments[1:])
        else:
            setup(os.environ["METERLINE_STAMP"])
    except SetupError as error:
        say(str(error))
        return error.status
    except KeyboardInterrupt:
        say("stopped; the next ./run goes on from here")
        return 130
    return 0


def setup(stamp: str) -> None:
    """Brings `.venv` to what the stamp stands for."""
    with _only_one():
        if STAMP.exists() and STAMP.read_text("utf-8").rstrip("\n") == stamp:
            return  # another ./run has done it meanwhile
        began = time.monotonic()
        say(f"setting up {VENV} with Python {sys.version.split()[0]}")
        _check_disk()
        uv = _uv()
        STAMP.unlink(missing_ok=True)
        _make_venv(uv)
        say("installing the locked packages (the first time downloads about 450 MB)")
        python = str(VENV / "bin" / "python")
        _fetch(uv, "pip", "sync", "--python", python, "--require-hashes", str(REQUIREMENTS / "dev.txt"))
        # `sync` has removed these three, which no lock can hold.
        local = [part for folder in (ROOT, ROOT / "schemas", ROOT / "producers") for part in ("-e", str(folder))]
        offline = ["--offline", "--no-index", "--no-deps", "--no-build-isolation"]
        _run(uv, "pip", "install", "--quiet", "--python", python, *offline, *local)
        STAMP.write_text(stamp + "\n", "utf-8")
        say(f"set up in {time.monotonic() - began:.0f} s")


def lock(more: list[str]) -> None:
    """Rewrites requirements/*.txt. `more` goes to uv (`--upgrade`, `--upgrade-package NAME`)."""
    uv = _uv()
    common = ["--universal", "--python-version", "3.11", "--generate-hashes", "--quiet", *more]
    local = [part for name in MEMBERS for part in ("--no-emit-package", name)]
    for name, extras in {
        "app": [],
        "embedded": ["--extra", "embedded"],
        "dev": ["--all-extras", "--group", "dev"],
    }.items():
        _compile(uv, name, ["pyproject.toml", *extras, *local, *common])
    _compile(uv, "uv", ["requirements/uv.in", *common])


def _compile(uv: str, name: str, arguments: list[str]) -> None:
    say(f"resolving requirements/{name}.txt")
    target = f"requirements/{name}.txt"
    _fetch(uv, "pip", "compile", *arguments, "--custom-compile-command", "./run lock", "-o", target)
    if "://" in (ROOT / target).read_text("utf-8"):
        raise SetupError(f"{target} names a host; a lock must serve behind every mirror. Look for the line with ://")


@contextmanager
def _only_one() -> Iterator[None]:
    try:
        WORK.mkdir(exist_ok=True)
        file = (WORK / "setup.lock").open("w")
    except OSError as error:
        raise SetupError(f"{WORK} cannot be written: {error}. Clone to a folder that is yours.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another ./run is setting up; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_disk() -> None:
    if VENV.exists():
        return
    need_mb = int(os.environ.get("METERLINE_SETUP_DISK_MB", DISK_MB))
    free_mb = shutil.disk_usage(ROOT).free // 1_000_000
    if free_mb < need_mb:
        raise SetupError(
            f"{ROOT} has {free_mb} MB free, and setting up needs about {need_mb} MB with the package cache. "
            "Remedy: free some (`uv cache clean` empties the cache), or clone to a larger disk; "
            "with a filled cache less will do: set METERLINE_SETUP_DISK_MB."
        )


def _uv() -> str:
    """A uv that works: the one in PATH, ours of a former time, or a new one of our own."""
    for candidate in (shutil.which("uv"), str(OWN_UV / "bin" / "uv"), str(Path(sys.prefix) / "bin" / "uv")):
        if candidate and _works(candidate):
            return candidate
    return _get_uv()


def _works(uv: str) -> bool:
    """Shims and half-made installations exist, too."""
    try:
        answer = subprocess.run([uv, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    found = re.match(r"uv (\d+)\.(\d+)", answer)
    return found is not None and (int(found[1]), int(found[2])) >= UV_AT_LEAST


def _get_uv() -> str:
    """Installs the locked uv below .meterline/, with whatever pip this Python has, and touches nothing else."""
    say("no usable uv in PATH: installing one into .meterline/uv")
    making = WORK / "uv.making"
    shutil.rmtree(making, ignore_errors=True)
    python = sys.executable
    if not _has_module("pip"):
        if not _has_module("ensurepip"):
            raise SetupError(
                f"{python} has neither pip nor ensurepip (Debian and Ubuntu package them apart), so uv cannot be installed. "
                "Remedy: apt install python3-venv, or install uv by any other way so that it stands in PATH."
            )
        _run(python, "-m", "venv", str(making / "venv"))
        python = str(making / "venv" / "bin" / "python")
    quiet = ["--disable-pip-version-check", "--root-user-action=ignore"]
    exact = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(REQUIREMENTS / "uv.txt")]
    _fetch(python, "-m", "pip", "install", *quiet, *exact, "--target", str(making / "lib"))
    shutil.rmtree(OWN_UV, ignore_errors=True)
    (making / "lib").replace(OWN_UV)
    shutil.rmtree(making, ignore_errors=True)
    uv = str(OWN_UV / "bin" / "uv")
    if not _works(uv):
        raise SetupError(f"the uv that was installed does not run on this machine ({uv}). Install uv so that it stands in PATH.")
    return uv


def _has_module(name: str) -> bool:
    return subprocess.run([sys.executable, "-m", name, "--version"], capture_output=True, timeout=60, check=False).returncode == 0


def _make_venv(uv: str) -> None:
    """A venv whose interpreter works; anything else in its place is removed (a clone that moved, a Python upgraded)."""
    python = VENV / "bin" / "python"
    if python.exists():
        alive = subprocess.run([str(python), "-I", "-c", "pass"], capture_output=True, timeout=60, check=False)
        if alive.returncode == 0:
            return
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    shutil.rmtree(VENV, ignore_errors=True)
    _run(uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(VENV))


def _run(*command: str) -> None:
    if (status := _call(command)) != 0:
        raise SetupError(f"`{' '.join(command)}` failed with status {status}; its own words are above")


def _fetch(*command: str) -> None:
    """`_run` for a command that downloads."""
    if _call(command) == 0:
        return
    free_mb = shutil.disk_usage(ROOT).free // 1_000_000
    if free_mb < 300:
        raise SetupError(f"installing failed, and only {free_mb} MB of disk are free. Free about {DISK_MB} MB and start again.")
    raise SetupError(
        "the packages could not be fetched; the installer's own words are above. Remedies, where the registry is out of reach: "
        "name a mirror (UV_DEFAULT_INDEX, or PIP_INDEX_URL where pip was at work), a proxy (HTTPS_PROXY), or your company's "
        "authority (SSL_CERT_FILE); where it is slow, start again: what has arrived is kept.",
        UNREACHABLE,
    )


def _call(command: tuple[str, ...]) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
    environment.setdefault("UV_HTTP_TIMEOUT", "120")
    environment["UV_PYTHON_DOWNLOADS"] = "never"
    return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
