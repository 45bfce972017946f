"""The index keeps to its bound of memory: what is more lies in files that nobody has to remove."""

from __future__ import annotations

import gc
import logging
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from consumers.shelf import Shelf
from metering.index import CommittedIndex, Sizes

SIZES = Sizes(smallest_level=1 << 8, at_once_max=1 << 11, part_max=1 << 11)
KEYS = np.random.default_rng(8).integers(0, 2**64, 60_000, dtype=np.uint64)


def filled(shelf: Shelf) -> CommittedIndex:
    index = CommittedIndex(keep=shelf.keep, sizes=SIZES)
    for start in range(0, len(KEYS), 1_000):
        index.add(KEYS[start : start + 1_000])
    index.settle()
    return index


def held(place: str) -> float:
    value = REGISTRY.get_sample_value("meterline_index_bytes", {"place": place})
    assert value is not None
    return value


@pytest.mark.parametrize("memory_bytes_max", [0, 100_000, 1 << 30])
def test_what_does_not_fit_in_memory_lies_in_files_and_is_found_there(tmp_path: Path, memory_bytes_max: int) -> None:
    shelf = Shelf(tmp_path / "index", memory_bytes_max)
    index = filled(shelf)
    assert (index.counts(KEYS) == 1).all()
    assert not index.hits(KEYS + np.uint64(1)).any()
    assert held("memory") <= memory_bytes_max
    long_runs = held("memory") + (held("disk") if memory_bytes_max < 1 << 30 else 0)
    assert 0.9 * KEYS.nbytes <= long_runs <= KEYS.nbytes
    assert not (tmp_path / "index").exists() or list((tmp_path / "index").iterdir()) == []


def test_memory_is_given_back_with_the_runs_and_a_second_index_shares_the_bound(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, KEYS.nbytes)
    first = filled(shelf)
    again = filled(shelf)
    assert held("memory") <= KEYS.nbytes
    assert held("disk") > 0
    assert (again.counts(KEYS) == 1).all()
    del first, again
    gc.collect()
    assert (held("memory"), held("disk")) == (0, 0)
    filled(shelf)
    gc.collect()
    assert held("disk") == 0


def test_without_a_file_the_keys_stay_in_memory_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "index").write_text("in the way")
    with caplog.at_level(logging.ERROR):
        index = filled(Shelf(tmp_path / "index", 0))
    assert (index.counts(KEYS) == 1).all()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "METERLINE_INDEX_MEMORY_BYTES_MAX" in caplog.text


def test_a_copy_of_an_index_is_another_one(tmp_path: Path) -> None:
    index = filled(Shelf(tmp_path, 0))
    copy = index.copy()
    copy.add(KEYS)
    index.add(KEYS[:10])
    assert (copy.counts(KEYS) == 2).all()
    assert index.counts(KEYS[:20]).tolist() == [2] * 10 + [1] * 10
