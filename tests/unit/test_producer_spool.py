"""The spool on a real disk: what was called spooled is there after any crash, in order, within its bound."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterline.errors import SpoolBroken, SpoolFull
from meterline.spool import Spool, SpooledRecord, frame_of, read_frames

# Other work on the machine must not fail a test.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _record(number: int, size: int = 20) -> SpooledRecord:
    return SpooledRecord(b"key-%d" % number, b"v" * size, [("schema-version", b"1")])


def _drain(spool: Spool) -> list[bytes]:
    keys: list[bytes] = []
    spool.rotate()
    with spool.draining() as ours:
        assert ours
        while (segment := spool.oldest()) is not None:
            frames = spool.read(segment)
            keys += [record.key for record in frames.records]
            spool.done(segment, frames)
    return keys


def test_what_was_spooled_is_read_back_in_order_across_segments(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20, segment_bytes=100)
    for number in range(20):
        assert spool.append([_record(number)]) == 1
    assert len(list(tmp_path.glob("*.segment"))) > 5
    assert spool.pending()
    assert _drain(spool) == [b"key-%d" % number for number in range(20)]
    assert not spool.pending()
    assert spool.bytes_held() == 0


def test_a_full_spool_refuses_and_keeps_the_oldest(tmp_path: Path) -> None:
    one = len(frame_of(_record(0)))
    spool = Spool(tmp_path, one * 3)
    assert spool.append([_record(0), _record(1)]) == 2
    assert spool.append([_record(2), _record(3)]) == 1
    with pytest.raises(SpoolFull, match="spool_bytes_max"):
        spool.append([_record(4)])
    assert spool.bytes_held() == one * 3
    assert _drain(spool) == [b"key-0", b"key-1", b"key-2"]
    assert spool.append([_record(5)]) == 1


def test_the_bound_holds_over_all_processes_of_a_directory(tmp_path: Path) -> None:
    one = len(frame_of(_record(0)))
    first, second = Spool(tmp_path, one * 2), Spool(tmp_path, one * 2)
    first.append([_record(0)])
    second.append([_record(1)])
    with pytest.raises(SpoolFull):
        first.append([_record(2)])


def test_a_segment_is_left_alone_while_its_writer_lives(tmp_path: Path) -> None:
    writer, other = Spool(tmp_path, 1 << 20), Spool(tmp_path, 1 << 20)
    writer.append([_record(0)])
    assert other.oldest() is None
    assert not other.pending()
    assert writer.pending()
    writer.rotate()
    assert other.oldest() is not None
    assert other.pending()
    assert _drain(other) == [b"key-0"]
    assert not writer.pending()


def test_only_one_drains_at_a_time(tmp_path: Path) -> None:
    first, second = Spool(tmp_path, 1 << 20), Spool(tmp_path, 1 << 20)
    with first.draining() as ours, second.draining() as theirs:
        assert (ours, theirs) == (True, False)
    with second.draining() as theirs:
        assert theirs


def test_what_a_killed_process_spooled_is_there_for_the_next(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from meterline.spool import Spool, SpooledRecord
spool = Spool(Path(sys.argv[1]), 1 << 20)
spool.append([SpooledRecord(b"key-%d" % number, b"v", []) for number in range(3)])
print("spooled", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "spooled\n"
        spool = Spool(tmp_path, 1 << 20)
        assert spool.oldest() is None
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=10)
    assert spool.pending()
    assert _drain(spool) == [b"key-0", b"key-1", b"key-2"]


def test_a_torn_tail_is_dropped_and_what_stands_before_it_kept(tmp_path: Path) -> None:
    whole = frame_of(_record(0)) + frame_of(_record(1))
    (tmp_path / "00000000000000000001.segment").write_bytes(whole + frame_of(_record(2))[:-1])
    spool = Spool(tmp_path, 1 << 20)
    assert _drain(spool) == [b"key-0", b"key-1"]
    assert list(tmp_path.glob("*.segment")) == []
    assert list(tmp_path.glob("*.damaged")) == []


def test_damage_in_the_middle_costs_only_its_own_frame_and_the_file_is_set_aside(tmp_path: Path) -> None:
    middle = bytearray(frame_of(_record(1)))
    middle[middle.index(b"vvv")] ^= 0xFF  # still well-formed: only the checksum tells
    (tmp_path / "00000000000000000001.segment").write_bytes(frame_of(_record(0)) + middle + frame_of(_record(2)))
    spool = Spool(tmp_path, 1 << 20)
    assert _drain(spool) == [b"key-0", b"key-2"]
    assert [path.name for path in tmp_path.glob("*.damaged")] == ["00000000000000000001.damaged"]
    assert not spool.pending()
    spool.append([_record(3)])
    assert sorted(path.name for path in tmp_path.glob("*.segment")) == ["00000000000000000002.segment"]


@given(st.lists(st.integers(0, 200), min_size=1, max_size=6), st.data())
@unhurried
def test_a_segment_cut_at_any_byte_gives_exactly_the_frames_before_the_cut(sizes: list[int], data: st.DataObject) -> None:
    records = [_record(number, size) for number, size in enumerate(sizes)]
    frames = [frame_of(record) for record in records]
    text = b"".join(frames)
    cut = data.draw(st.integers(0, len(text)))
    found = read_frames(text[:cut])
    ends = [sum(map(len, frames[: number + 1])) for number in range(len(frames))]
    kept = sum(end <= cut for end in ends)
    assert found.records == records[:kept]
    assert found.damaged_bytes == cut - ([0, *ends][kept])
    assert not found.damaged_within


@given(st.binary(max_size=300) | st.lists(st.sampled_from([frame_of(_record(1)), b"\x89MSP", b"\x00"]), max_size=8).map(b"".join))
@unhurried
def test_no_bytes_make_reading_a_segment_raise(data: bytes) -> None:
    found = read_frames(data)
    assert sum(len(frame_of(record)) for record in found.records) + found.damaged_bytes == len(data)


def test_a_write_that_the_disk_refuses_keeps_nothing_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.append([_record(0)])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SpoolBroken, match="No space left"):
            spool.append([_record(1)])
    spool.append([_record(2)])
    assert _drain(spool) == [b"key-0", b"key-2"]


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolBroken, match="file"):
        Spool(tmp_path / "file" / "spool", 1 << 20)
