"""What the embedded Postgres takes of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.embedded.postgres import buffers_mb, memory_bytes


@pytest.mark.parametrize(
    ("memory_mb", "given_mb"), [(256, 64), (512, 64), (520, 65), (4_096, 512), (16_384, 2_048), (524_288, 2_048)]
)
def test_postgres_is_given_an_eighth_of_the_memory_within_its_bounds(memory_mb: int, given_mb: int) -> None:
    assert buffers_mb(memory_mb << 20) == given_mb


def test_the_limit_of_a_control_group_counts_where_it_is_below_the_memory(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    of_the_machine = memory_bytes(limit)
    assert of_the_machine > 0
    limit.write_text("max\n", "ascii")
    assert memory_bytes(limit) == of_the_machine
    limit.write_text("1048576\n", "ascii")
    assert memory_bytes(limit) == 1 << 20
    limit.write_text(f"{of_the_machine * 2}\n", "ascii")
    assert memory_bytes(limit) == of_the_machine
