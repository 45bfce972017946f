"""A copy of the tree in which code may be broken, and the tests that run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mutants.patch import Catcher, Mutant, PatchDoesNotFit

ROOT = Path(__file__).parents[2]
CAUGHT = 1
"""pytest's status when a test failed, and the simulation's when a schedule found something; others mean that it did not run."""


@contextmanager
def copied() -> Iterator[Path]:
    """The files that git knows or would know, in a folder of their own; removed afterwards."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    with tempfile.TemporaryDirectory(prefix="meterline-mutant-") as folder:
        tree = Path(folder)
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        yield tree


def apply(mutant: Mutant, tree: Path) -> None:
    """Patches a copy. Raises PatchDoesNotFit, for a mutant too that is no program: a test that fails on it has found nothing."""
    for patch in mutant.patches:
        patch.apply(tree)
    paths = sorted({patch.path for patch in mutant.patches})
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "E9,F821,F823", *paths]
    checked = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60, check=False)
    if checked.returncode != 0:
        raise PatchDoesNotFit(f"the mutant is no program: {checked.stdout}")


def run_there(tree: Path, catcher: Catcher) -> tuple[int | None, str]:
    """The status and the end of what it said; None when it took too long."""
    # Before the installed distributions, which lead to the tree that this is a copy of.
    path = os.pathsep.join(str(tree / part) for part in ("", "schemas", "producers"))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    process = subprocess.Popen(
        [sys.executable, "-m", *catcher.words],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=catcher.within_s)
    except subprocess.TimeoutExpired:
        # Its servers end with it.
        process.kill()
        said, _ = process.communicate()
        return None, said[-2_000:]
    return process.returncode, said[-2_000:]
