"""The gateway's bounds: on settings, bodies, lanes and sessions."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import lz4.frame  # type: ignore[import-untyped]
import pytest

from deploy.embedded.clickhouse import parameters
from deploy.embedded.clickhouse.body import Body, BodyBounds, ClientGone, receive_body
from deploy.embedded.clickhouse.compression import PIECE_BYTES, Decoder, choose, encoder
from deploy.embedded.clickhouse.failures import Failure
from deploy.embedded.clickhouse.forms import external_tables, read_form
from deploy.embedded.clickhouse.lanes import LaneBounds, Lanes
from deploy.embedded.clickhouse.sessions import Sessions


def _messages(*parts: bytes, gone: bool = False) -> Callable[[], Any]:
    queue: Iterator[MutableMapping[str, Any]] = iter(
        [{"type": "http.request", "body": part, "more_body": gone or at < len(parts) - 1} for at, part in enumerate(parts)]
        + [{"type": "http.disconnect"}]
    )

    async def receive() -> MutableMapping[str, Any]:
        return next(queue)

    return receive


def _receive(tmp_path: Path, bounds: BodyBounds, *parts: bytes, encoding: str = "", gone: bool = False) -> bytes:
    with asyncio.run(receive_body(_messages(*parts, gone=gone), encoding, tmp_path, bounds)) as body:
        return b"".join(body.pieces())


def test_a_body_is_put_together_from_its_parts(tmp_path: Path) -> None:
    assert _receive(tmp_path, BodyBounds(), b"ab", b"", b"c") == b"abc"
    packed = gzip.compress(b"x" * 3_000_000)
    assert _receive(tmp_path, BodyBounds(), packed[:10], packed[10:], encoding="gzip") == b"x" * 3_000_000


def test_a_body_larger_than_its_bound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="larger than the 10 bytes") as caught:
        _receive(tmp_path, BodyBounds(sent_bytes=10), b"12345678", b"90x")
    assert caught.value.status == 413


def test_a_small_body_that_unpacks_to_a_large_one_is_refused(tmp_path: Path) -> None:
    bomb = zlib.compress(b"\0" * 50_000_000)
    with pytest.raises(Failure, match="unpacks to more") as caught:
        _receive(tmp_path, BodyBounds(unpacked_bytes=5_000_000), bomb, encoding="deflate")
    assert caught.value.status == 413


def test_a_client_that_leaves_is_told_apart_from_one_that_is_silent(tmp_path: Path) -> None:
    with pytest.raises(ClientGone):
        _receive(tmp_path, BodyBounds(), b"half", gone=True)

    async def silent() -> MutableMapping[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    with pytest.raises(Failure) as caught:
        asyncio.run(receive_body(silent, "", tmp_path, BodyBounds(silence_s=0.01)))
    assert caught.value.code == 209


@pytest.mark.parametrize("size", [10, 5000])
@pytest.mark.parametrize("first", [b"", b"first"])
def test_rows_reach_a_file_whatever_their_size(tmp_path: Path, size: int, first: bytes) -> None:
    with Body(tmp_path, 1000) as body:
        body.write(b"#" + b"x" * size)
        for start in (0, 1):
            with body.as_file(first, start) as descriptor, open(f"/dev/fd/{descriptor}", "rb") as rows:
                assert rows.read() == first + (b"#" if start == 0 else b"") + b"x" * size


@pytest.mark.parametrize("name", ["lz4", "zstd", "gzip", "deflate"])
def test_every_encoding_is_its_own_inverse(name: str) -> None:
    packer, unpacker = encoder(name), Decoder(name)
    parts = [b"a" * 2_000_000, b"", b"b", bytes(range(256)) * 100]
    packed = b"".join(packer.feed(part) for part in parts) + packer.finish()
    pieces = [piece for at in range(0, len(packed), 1000) for piece in unpacker.feed(packed[at : at + 1000])]
    unpacker.finish()
    assert b"".join(pieces) == b"".join(parts)
    assert max(map(len, pieces)) <= PIECE_BYTES


def test_several_frames_are_one_body() -> None:
    for name, pack in (("lz4", lz4.frame.compress), ("gzip", gzip.compress)):
        unpacker = Decoder(name)
        assert b"".join(unpacker.feed(pack(b"one") + pack(b"two"))) == b"onetwo"
        unpacker.finish()


def test_the_quickest_encoding_that_the_client_takes_is_chosen() -> None:
    assert choose("gzip, zstd;q=0.5, lz4") == "lz4"
    assert choose("br, gzip") == "gzip"
    assert choose("lz4;q=0, identity") is None


@pytest.mark.parametrize("name", ["a b", "max_threads=1,readonly", "MAX", "a;b", "a'", "1a", "a" * 200])
def test_a_name_that_is_no_settings_name_is_refused(name: str) -> None:
    with pytest.raises(Failure) as caught:
        parameters.read({name: "1"}, readonly=False, threads=1, headers={})
    assert caught.value.code == 115


def test_a_read_only_request_has_limits_even_when_it_asks_for_none() -> None:
    asked = parameters.read({"readonly": "0"}, readonly=True, threads=1, headers={})
    assert asked.readonly
    assert asked.settings["max_execution_time"] == "60"
    assert asked.settings["max_memory_usage"] == "1000000000"


def test_a_structure_may_hold_only_names_and_types() -> None:
    given = {"x_structure": "a Array(Tuple(String, DateTime64(3, 'UTC'))), b Decimal(18, 6)"}
    assert external_tables({"x": b""}, given)[0].structure.startswith("a Array")
    assert (
        external_tables({"x": b""}, {"x_types": "UInt8,Array(Tuple(String, UInt8))"})[0].structure
        == "_1 UInt8, _2 Array(Tuple(String, UInt8))"
    )
    for structure in ("a UInt8) ENGINE = X(", "a UInt8; b", "a UInt8 DEFAULT f()", "", "a UInt8 ALIAS 1"):
        with pytest.raises(Failure):
            external_tables({"x": b""}, {"x_structure": structure})


def test_a_form_that_ends_too_early_is_refused() -> None:
    with pytest.raises(Failure):
        read_form("multipart/form-data; boundary=B", b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1')
    with pytest.raises(Failure):
        read_form("multipart/form-data", b"")


def test_a_full_lane_refuses_at_once_and_a_long_read_makes_room() -> None:
    async def scenario() -> None:
        lanes = Lanes(LaneBounds(quick_reads=1, long_reads=1, waiting=1, wait_s=0.2, quick_s=0.02))
        release = asyncio.Event()

        async def hold() -> None:
            async with lanes.read(readonly=False):
                await release.wait()

        long = asyncio.create_task(hold())
        await asyncio.sleep(0.05)  # past quick_s: the long one has moved
        async with asyncio.timeout(0.1), lanes.read(readonly=False):
            pass
        second = asyncio.create_task(hold())  # stays in the quick place, for the long one is taken
        await asyncio.sleep(0.05)
        with pytest.raises(Failure, match="none became free") as caught:
            async with lanes.read(readonly=False):
                raise AssertionError
        assert caught.value.code == 202
        async with asyncio.timeout(0.1), lanes.read(readonly=True), lanes.insert(), lanes.write():
            pass
        release.set()
        await asyncio.gather(long, second)
        async with asyncio.timeout(0.1), lanes.read(readonly=False):
            pass

    asyncio.run(scenario())


def test_places_are_handed_over_in_order_and_none_is_lost() -> None:
    async def scenario() -> list[int]:
        lanes = Lanes(LaneBounds(inserts=1, waiting=50))
        order: list[int] = []

        async def work(number: int) -> None:
            async with lanes.insert():
                order.append(number)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(work(number)) for number in range(20)]
        await asyncio.sleep(0)
        tasks[7].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(0.5), lanes.insert():
            pass
        return order

    assert asyncio.run(scenario()) == [number for number in range(20) if number != 7]


class _Connection:
    closed = False
    _conn: Any = None

    def query(self, text: str | bytes, format: str = "TabSeparated") -> Any:
        raise AssertionError

    def close(self) -> None:
        self.closed = True


def test_sessions_end_in_time_and_are_bounded_in_number() -> None:
    now = 0.0
    made: list[_Connection] = []

    def connect() -> _Connection:
        made.append(_Connection())
        return made[-1]

    sessions = Sessions(connect, sessions_max=2)

    def use(name: str, *, check: bool = False, state: bool = False) -> None:
        with sessions.use("u", name, readonly=False, check=check, timeout_s=10, now=lambda: now) as session:
            session.holds_state = session.holds_state or state

    use("a", state=True)
    use("b")
    use("c")  # takes the place of b, which holds nothing
    assert [connection.closed for connection in made] == [False, True, False]
    use("c", state=True)
    with pytest.raises(Failure) as caught:
        use("d")
    assert caught.value.code == 202
    now = 10.0
    with pytest.raises(Failure) as caught:
        use("a", check=True)
    assert caught.value.code == 372
    assert all(connection.closed for connection in made)


def test_a_busy_session_is_locked_and_never_swept() -> None:
    sessions = Sessions(_Connection)
    with sessions.use("u", "s", readonly=False, check=False, timeout_s=0, now=lambda: 0.0) as session:
        sessions.sweep(1e9)
        with pytest.raises(Failure) as caught, sessions.use("u", "s", readonly=False, check=True, timeout_s=0, now=lambda: 0.0):
            pass
        assert caught.value.code == 373
        assert session.connection is not None
