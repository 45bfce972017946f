"""Reading a file of events line by line, in bounded memory."""

from __future__ import annotations

import io

import pytest

from meterline.lines import numbered_lines

MOST = 65_536


def test_lines_keep_their_numbers_and_lose_only_their_ends() -> None:
    assert list(numbered_lines(io.BytesIO(b"a\r\n\n  \n b \nc"))) == [(1, b"a"), (4, b" b "), (5, b"c")]
    assert list(numbered_lines(io.BytesIO(b""))) == []


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize(("size", "kept"), [(MOST, MOST), (MOST + 1, MOST + 1), (MOST * 3, MOST + 1), (5_000_000, MOST + 1)])
def test_a_line_is_whole_up_to_the_largest_event_and_cut_just_above(size: int, kept: int, end: bytes) -> None:
    lines = list(numbered_lines(io.BytesIO(b"x" * size + end + b"next\n" * bool(end))))
    assert (lines[0][0], len(lines[0][1])) == (1, kept)
    assert lines[1:] == ([(2, b"next")] if end else [])
