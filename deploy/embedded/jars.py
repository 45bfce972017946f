"""The jars of the servers that run on Java: resolved by jgo, held to committed lock files, kept once per user.

`python -m deploy.embedded.jars` fetches what Kafka lacks; with `--lock` it resolves every bundle anew and rewrites the locks.
Starting a server reads its lock and the cached files only: no network, no import of jgo.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.embedded.errors import EmbeddedError
from runtime.exits import Exit

KAFKA = "org.apache.kafka:kafka_2.13:4.3.1"
# Kafka's own dependencies hold slf4j without a binding, and the broker's log would be lost. The version is its slf4j's.
LOG_BINDING = "org.slf4j:slf4j-simple:1.7.36"
TEMPORAL = "io.temporal:temporal-test-server:1.38.0"

DOWNLOADS_AT_ONCE = 6
TRIES_MAX = 3
TIMEOUT_S = 20

REMEDIES = (
    "Remedies: set METERLINE_MAVEN_REPOSITORY to a repository mirror that this machine can reach, "
    "or METERLINE_KAFKA_URL=host:port to use a broker that runs already, or use `docker compose up`."
)


@dataclass(frozen=True)
class Bundle:
    """What one server needs: the coordinates that it is resolved from, and where the result is locked."""

    name: str
    coordinates: tuple[str, ...]
    lock: Path
    megabytes: int
    remedies: str


KAFKA_JARS = Bundle("Kafka", (KAFKA, LOG_BINDING), Path(__file__).with_name("kafka.lock.toml"), 44, REMEDIES)
TEMPORAL_JARS = Bundle(
    "Temporal's test server",
    (TEMPORAL,),
    Path(__file__).with_name("temporal.lock.toml"),
    39,
    "Remedy: set METERLINE_MAVEN_REPOSITORY to a repository mirror that this machine can reach.",
)
BUNDLES = (KAFKA_JARS, TEMPORAL_JARS)


@dataclass(frozen=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where it lies below a repository, local or remote."""
        return Path(*self.group.split("."), self.artifact, self.version, f"{self.artifact}-{self.version}.jar")


def locked(bundle: Bundle) -> tuple[Jar, ...]:
    """The lock file's jars. Raises ValueError when a jar in it has no checksum: such a lock protects nothing."""
    entries = tomllib.loads(bundle.lock.read_text("utf-8"))["dependencies"]
    if not all(entry.get("sha256") and entry["packaging"] == "jar" and not entry.get("classifier") for entry in entries):
        raise ValueError(f"{bundle.lock.name} holds an entry that is not a plain jar with a sha256; run `./run lock`")
    return tuple(Jar(entry["groupId"], entry["artifactId"], entry["version"], entry["sha256"]) for entry in entries)


def cache_dir() -> Path:
    """METERLINE_CACHE_DIR, else the user's cache: shared by every clone, so the jars are fetched once."""
    if named := os.environ.get("METERLINE_CACHE_DIR"):
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meterline"


def class_path(bundle: Bundle, log: Callable[[str], None]) -> list[Path]:
    """Every locked jar's path, verified; fetches the missing ones, telling `log` how far it is.

    Two processes may call this at once: one fetches, the other waits for it. Raises EmbeddedError with the remedies.
    """
    jars = locked(bundle)
    home = cache_dir() / "jars"
    paths = [home / jar.path for jar in jars]
    if not _wrong(home, jars):
        return paths
    with _only_one(home, log):
        missing = _wrong(home, jars)
        if missing:
            _fetch(bundle, home, missing, log)
    return paths


def _wrong(home: Path, jars: tuple[Jar, ...]) -> tuple[Jar, ...]:
    """The jars that are absent or whose bytes are not the locked ones."""
    with ThreadPoolExecutor(2) as workers:
        right = workers.map(lambda jar: _sha256(home / jar.path) == jar.sha256, jars)
        return tuple(jar for jar, ok in zip(jars, right, strict=True) if not ok)


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


@contextmanager
def _only_one(home: Path, log: Callable[[str], None]) -> Iterator[None]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / ".lock").open("w")
    except OSError as error:
        raise EmbeddedError(
            f"the cache for jars cannot be written: {error}. Set METERLINE_CACHE_DIR to a folder that can."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("another process is fetching jars; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(bundle: Bundle, home: Path, missing: tuple[Jar, ...], log: Callable[[str], None]) -> None:
    """Downloads beside the cache, checks each sha256, then renames: what stands in the cache is whole and right."""
    log(f"fetching {len(missing)} jars for {bundle.name} into {home} ({bundle.megabytes} MB for all)")
    arriving = home / ".arriving"
    shutil.rmtree(arriving, ignore_errors=True)  # of a process that was killed; ours alone, under the lock
    done = size = 0
    workers = ThreadPoolExecutor(DOWNLOADS_AT_ONCE)
    try:
        waiting: set[Future[int]] = {workers.submit(_fetch_one, bundle, home, arriving, jar) for jar in missing}
        while waiting:
            finished, waiting = wait(waiting, timeout=2.0, return_when=FIRST_EXCEPTION)
            size += sum(future.result() for future in finished)
            done += len(finished)
            if finished:
                log(f"  {done} of {len(missing)} jars, {size / 1e6:.0f} MB")
    finally:
        workers.shutdown(cancel_futures=True)
        shutil.rmtree(arriving, ignore_errors=True)


def _fetch_one(bundle: Bundle, home: Path, arriving: Path, jar: Jar) -> int:
    # jgo pulls in an HTTP client; a start with a full cache never needs it.
    import requests
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=arriving, remote_repos=_repositories(), timeout=TIMEOUT_S)
    problem = ""
    for _ in range(TRIES_MAX):
        try:
            arrived: Path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        except (requests.RequestException, RuntimeError, OSError) as error:
            problem = str(error)
            (arriving / jar.path).unlink(missing_ok=True)
            continue
        if (found := _sha256(arrived)) != jar.sha256:
            arrived.unlink()
            raise EmbeddedError(
                f"{jar.path.name} arrived with sha256 {found}, but {bundle.lock.name} holds {jar.sha256}: "
                f"the repository gave other bytes. Nothing of it was kept. {bundle.remedies}"
            )
        size = arrived.stat().st_size
        (home / jar.path).parent.mkdir(parents=True, exist_ok=True)
        arrived.replace(home / jar.path)
        return size
    raise EmbeddedError(f"{jar.path.name} cannot be fetched: {problem}. {bundle.remedies}", Exit.UNREACHABLE)


def _repositories() -> dict[str, str]:
    """The named mirror alone, else the repositories of the user's jgo configuration before jgo's default one."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL

    if mirror := os.environ.get("METERLINE_MAVEN_REPOSITORY"):
        return {"mirror": mirror.rstrip("/")}
    return {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}


def lock(bundle: Bundle, log: Callable[[str], None]) -> None:
    """Resolves the coordinates and rewrites the lock file, if anything in it changed."""
    from jgo.maven import MavenContext
    from jgo.parse import Endpoint

    # Not in the user's own Maven folder, and removed afterwards: what is fetched here has been checked by nobody.
    with tempfile.TemporaryDirectory(prefix="meterline-jars-") as folder:
        context = MavenContext(repo_cache=Path(folder), remote_repos=_repositories(), timeout=TIMEOUT_S)
        # `!`: the log binding's own parent must not manage the versions of Kafka's dependencies.
        first, *more = bundle.coordinates
        wanted = Endpoint.parse("+".join((first, *(f"{one}!" for one in more)))).coordinates
        asked = [context.create_dependency(replace(coordinate, scope="compile")) for coordinate in wanted]
        named, brought = context.resolver.resolve(asked)
        artifacts = [found.artifact for found in (*named, *(one for one in brought if one.scope in ("compile", "runtime")))]
        _write_lock(bundle, artifacts, log)


def _write_lock(bundle: Bundle, artifacts: list[Any], log: Callable[[str], None]) -> None:
    from jgo.env import LockFile
    from jgo.env._lockfile import LockedDependency

    entries = []
    for number, artifact in enumerate(artifacts, 1):
        path = artifact.resolve()
        log(f"  {number} of {len(artifacts)}: {path.name}")
        entries.append(LockedDependency(artifact.groupId, artifact.artifactId, artifact.version, sha256=_sha256(path)))
    entries.sort(key=lambda entry: (entry.groupId, entry.artifactId))
    new = [(entry.groupId, entry.artifactId, entry.version, entry.sha256) for entry in entries]
    if bundle.lock.exists() and new == [(jar.group, jar.artifact, jar.version, jar.sha256) for jar in locked(bundle)]:
        log(f"{bundle.lock.name} is up to date")
        return
    LockFile(dependencies=entries, environment_name=bundle.lock.name.partition(".")[0]).save(bundle.lock)
    log(f"{bundle.lock.name} holds {len(entries)} jars now")


def main(arguments: list[str]) -> int:
    """Fetch, or with --lock resolve anew. Talks to standard error only."""

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")

    try:
        if arguments == ["--lock"]:
            for bundle in BUNDLES:
                lock(bundle, say)
        elif arguments:
            say("usage: python -m deploy.embedded.jars [--lock]")
            return Exit.USAGE
        else:
            class_path(KAFKA_JARS, say)
    except EmbeddedError as error:
        say(f"meterline: {error}")
        return error.code
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
