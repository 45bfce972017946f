"""Kafka's jars are the locked bytes or none, and where they cannot be had the remedies are named."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.embedded import jars
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.processes import free_port
from runtime.exits import Exit

Mirror = tuple[Path, jars.Bundle]
JAR = Path("org/example/thing/1.0/thing-1.0.jar")
RIGHT = b"the bytes of a jar"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A repository on loopback that holds one jar, and a bundle of that jar alone; yields the jar in the repository, and it."""
    repository = tmp_path / "repository"
    (repository / JAR).parent.mkdir(parents=True)
    (repository / JAR).write_bytes(RIGHT)
    lock = tmp_path / "kafka.lock.toml"
    lock.write_text(
        '[[dependencies]]\ngroupId = "org.example"\nartifactId = "thing"\nversion = "1.0"\npackaging = "jar"\n'
        f'sha256 = "{hashlib.sha256(RIGHT).hexdigest()}"\n'
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(repository)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("METERLINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("METERLINE_MAVEN_REPOSITORY", f"http://127.0.0.1:{server.server_port}/")
    yield repository / JAR, replace(jars.KAFKA_JARS, lock=lock)
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_jar_is_fetched_once_and_then_taken_from_the_cache(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    (path,) = jars.class_path(mirror[1], said.append)
    assert path.read_bytes() == RIGHT
    assert "1 of 1 jars" in said[-1]
    monkeypatch.setenv("METERLINE_MAVEN_REPOSITORY", f"http://127.0.0.1:{free_port()}/")
    assert jars.class_path(mirror[1], said.append) == [path]
    assert len(said) == 2


def test_other_bytes_than_the_locked_ones_are_refused_and_not_kept(mirror: Mirror, tmp_path: Path) -> None:
    mirror[0].write_bytes(b"something else")
    with pytest.raises(EmbeddedError, match="the repository gave other bytes"):
        jars.class_path(mirror[1], lambda line: None)
    assert list((tmp_path / "cache").rglob("*.jar")) == []


def test_a_damaged_jar_in_the_cache_is_fetched_again(mirror: Mirror) -> None:
    (path,) = jars.class_path(mirror[1], lambda line: None)
    path.write_bytes(RIGHT[:-1])
    jars.class_path(mirror[1], lambda line: None)
    assert path.read_bytes() == RIGHT


def test_an_unreachable_repository_is_answered_with_the_remedies(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_MAVEN_REPOSITORY", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(EmbeddedError) as caught:
        jars.class_path(mirror[1], lambda line: None)
    assert caught.value.code == Exit.UNREACHABLE
    for remedy in ("METERLINE_MAVEN_REPOSITORY", "METERLINE_KAFKA_URL", "docker compose"):
        assert remedy in str(caught.value)


def test_a_repository_without_the_jar_is_answered_with_the_remedies(mirror: Mirror) -> None:
    mirror[0].unlink()
    with pytest.raises(EmbeddedError, match=r"thing-1\.0\.jar cannot be fetched.*Remedies"):
        jars.class_path(mirror[1], lambda line: None)


@pytest.mark.parametrize("bundle", jars.BUNDLES, ids=lambda bundle: bundle.name)
def test_a_committed_lock_holds_the_declared_versions_and_a_checksum_of_each(bundle: jars.Bundle) -> None:
    locked = {f"{jar.group}:{jar.artifact}:{jar.version}": jar.sha256 for jar in jars.locked(bundle)}
    assert set(bundle.coordinates) <= set(locked)
    assert all(len(checksum) == 64 for checksum in locked.values())


@pytest.mark.parametrize("bundle", jars.BUNDLES, ids=lambda bundle: bundle.name)
def test_a_lock_names_no_host(bundle: jars.Bundle) -> None:
    assert "://" not in bundle.lock.read_text()
