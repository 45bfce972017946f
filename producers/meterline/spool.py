"""Records waiting on disk while Kafka is away: bounded, in order, safe against a crash at any byte.

A directory of segments. Each is written by one process, which holds its lock while it may write on; a drainer, one at
a time by the directory's lock, takes segments that nobody writes any more, lowest number first, and removes each after
the log has all of it. So a crash while draining sends again, and loses nothing.

A frame is: magic, length and CRC-32 of the payload, payload. `append` returns after fsync, so a frame cut short by a
crash was never called spooled; a reader steps over it and goes on at the next magic.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from meterline.errors import SpoolBroken, SpoolFull

log = logging.getLogger(__name__)

_MAGIC: Final = b"\x89MSP"
_HEADER: Final = struct.Struct("<4sII")
_PAYLOAD_BYTES_MAX: Final = 256 << 10
_SEGMENT: Final = ".segment"
_DAMAGED: Final = ".damaged"


class SpooledRecord(msgspec.Struct, frozen=True, array_like=True):
    """A record as it will be produced."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(SpooledRecord)


@dataclass(frozen=True, slots=True)
class ReadFrames:
    """What a segment's bytes hold."""

    records: list[SpooledRecord]
    damaged_bytes: int
    """Bytes that belong to no whole frame."""
    damaged_within: bool
    """Whether a whole frame follows damage: then it is more than a write cut short at the end."""


def frame_of(record: SpooledRecord) -> bytes:
    payload = _ENCODER.encode(record)
    return _HEADER.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload


def read_frames(data: bytes) -> ReadFrames:
    """Every whole frame in `data`, in order; what is between them is counted, never guessed at."""
    records: list[SpooledRecord] = []
    at = damaged = 0
    damaged_within = False
    while at < len(data):
        found = data.find(_MAGIC, at)
        if found < 0:
            damaged += len(data) - at
            break
        damaged += found - at
        record, end = _frame_at(data, found)
        if record is None:
            damaged += 1
            at = found + 1
        else:
            damaged_within = damaged_within or damaged > 0
            records.append(record)
            at = end
    return ReadFrames(records, damaged, damaged_within)


def _frame_at(data: bytes, at: int) -> tuple[SpooledRecord | None, int]:
    if len(data) - at < _HEADER.size:
        return None, at
    _, length, crc = _HEADER.unpack_from(data, at)
    payload = data[at + _HEADER.size : at + _HEADER.size + min(length, _PAYLOAD_BYTES_MAX)]
    if len(payload) != length or zlib.crc32(payload) != crc:
        return None, at
    try:
        return _DECODER.decode(payload), at + _HEADER.size + length
    except msgspec.DecodeError:
        return None, at


class Spool:
    """One directory's spool, as one process uses it. Thread-safe. Other processes may use the same directory."""

    def __init__(self, directory: Path, bytes_max: int, segment_bytes: int = 4 << 20) -> None:
        """Makes the directory. Raises SpoolBroken when it cannot be written."""
        self.directory = directory
        self._bytes_max = bytes_max
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._open: tuple[int, Path] | None = None
        self._open_bytes = 0
        self._mine: set[Path] = set()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._append_lock = os.open(directory / "append.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._drain_lock = os.open(directory / "drain.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolBroken(f"spool directory {directory}: {error}; make it writable, or name another") from error

    def append(self, records: Sequence[SpooledRecord]) -> int:
        """Keeps the first of `records`, as many as fit, and returns how many, after they are on disk.

        Raises SpoolFull when not even one fits, SpoolBroken when the disk refuses (then none was kept).
        """
        frames = [frame_of(record) for record in records]
        with self._lock, self._locked(self._append_lock):
            try:
                room = self._bytes_max - self.bytes_held()
                taken = bytes_taken = 0
                while taken < len(frames) and bytes_taken + len(frames[taken]) <= room:
                    bytes_taken += len(frames[taken])
                    taken += 1
                if frames and not taken:
                    raise SpoolFull(
                        f"the spool {self.directory} holds all of its {self._bytes_max} bytes; "
                        "bring Kafka back, or raise spool_bytes_max"
                    )
                self._write(b"".join(frames[:taken]))
            except OSError as error:
                self._abandon()
                raise SpoolBroken(f"spool {self.directory}: {error}") from error
            return taken

    def bytes_held(self) -> int:
        """Bytes of all segments, of every process, and of damaged ones set aside."""
        held = 0
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name.endswith((_SEGMENT, _DAMAGED)):
                    with contextlib.suppress(FileNotFoundError):  # a drainer removed it just now
                        held += entry.stat().st_size
        return held

    def rotate(self) -> None:
        """Ends the segment being written, so that a drainer may take it."""
        with self._lock:
            self._close_segment()

    def pending(self) -> bool:
        """Whether anything waits that order asks to be sent first: what this process spooled, or an earlier one left."""
        with self._lock:
            self._mine = {path for path in self._mine if path.exists()}
            if self._mine:
                return True
        return any(self._unwritten(path) for path in self._segments())

    @contextlib.contextmanager
    def draining(self) -> Iterator[bool]:
        """Whether this process is the drainer, for as long as the context lasts."""
        try:
            fcntl.flock(self._drain_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._drain_lock, fcntl.LOCK_UN)

    def oldest(self) -> Path | None:
        """The first segment that nobody writes any more. Only the drainer asks."""
        return next((path for path in self._segments() if self._unwritten(path)), None)

    def read(self, segment: Path) -> ReadFrames:
        """A segment's records. Raises OSError."""
        return read_frames(segment.read_bytes())

    def done(self, segment: Path, frames: ReadFrames) -> None:
        """The log has all of the segment: it goes. One with damage inside is set aside for a person to look at."""
        if frames.damaged_bytes:
            log.warning(
                "the spool held bytes that are no record",
                extra={"segment": str(segment), "bytes": frames.damaged_bytes, "set_aside": frames.damaged_within},
            )
        if frames.damaged_within:
            segment.rename(segment.with_suffix(_DAMAGED))
        else:
            segment.unlink()
        self._sync_directory()

    def close(self) -> None:
        with self._lock:
            self._close_segment()
            os.close(self._append_lock)
            os.close(self._drain_lock)

    def _segments(self) -> list[Path]:
        return sorted(self.directory.glob(f"*{_SEGMENT}"))

    def _unwritten(self, segment: Path) -> bool:
        """Whether no living process holds the segment's lock. The lock goes with its process, however that ends."""
        try:
            descriptor = os.open(segment, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that two who look at once do not take each other for the writer.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(descriptor)

    def _write(self, data: bytes) -> None:
        if self._open is None or self._open_bytes >= self._segment_bytes:
            self._close_segment()
            self._open_segment()
        assert self._open is not None
        descriptor, _ = self._open
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
        self._open_bytes += len(data)

    def _open_segment(self) -> None:
        """A segment of the next number; the append lock is held, so no other process takes the same."""
        numbers = [int(path.name.split(".")[0]) for path in self.directory.glob(f"*{_SEGMENT}")]
        numbers += [int(path.name.split(".")[0]) for path in self.directory.glob(f"*{_DAMAGED}")]
        path = self.directory / f"{max(numbers, default=0) + 1:020d}{_SEGMENT}"
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        # Locked before it has the name under which a drainer looks for it.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary.rename(path)
        self._open, self._open_bytes = (descriptor, path), 0
        self._mine.add(path)
        self._sync_directory()

    def _close_segment(self) -> None:
        if self._open is not None:
            os.close(self._open[0])
            self._open = None

    def _abandon(self) -> None:
        """After a write that failed: cut back to what was synced, so that nothing refused is sent, and write no more there."""
        if self._open is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._open[0], self._open_bytes)
            self._close_segment()

    def _sync_directory(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    @contextlib.contextmanager
    def _locked(descriptor: int) -> Iterator[None]:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
