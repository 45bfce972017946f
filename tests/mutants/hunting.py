"""Whether a mutant is caught: its test passes on the code as it is, and fails on the mutant."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from tests.mutants.copied import CAUGHT, apply, copied, run_there
from tests.mutants.patch import Catcher, Mutant, PatchDoesNotFit


class Hunt:
    """Remembers which tests pass on the code as it is: each is asked once, or never where that is known already."""

    def __init__(self, tell: Callable[[str], None], *, sound: Iterable[Catcher] = ()) -> None:
        self._tell = tell
        self._sound: dict[Catcher, bool] = dict.fromkeys(sound, True)

    def caught_by(self, mutant: Mutant) -> str | None:
        """The test that fails on the mutant; None when it does not, or proves nothing since it fails anyway."""
        if not self._passes_as_it_is(mutant.catcher):
            return None
        began = time.monotonic()
        with copied() as tree:
            try:
                apply(mutant, tree)
            except PatchDoesNotFit as error:
                self._tell(f"{mutant.name}: {error}. Write the mutant anew, in tests/mutants/catalog.py")
                return None
            status, said = run_there(tree, mutant.catcher)
        took_s = time.monotonic() - began
        if status == CAUGHT:
            caught_by = f"{mutant.catcher.name}{_seed_of(said)}"
            self._tell(f"{mutant.name}: caught in {took_s:.0f} s by {caught_by}")
            return caught_by
        self._tell(f"{mutant.name}: NOT CAUGHT ({mutant.means}); {mutant.catcher.name} ended with {status}:\n{said}")
        return None

    def _passes_as_it_is(self, catcher: Catcher) -> bool:
        if catcher not in self._sound:
            with copied() as tree:
                status, said = run_there(tree, catcher)
            self._sound[catcher] = status == 0
            if status != 0:
                self._tell(f"{catcher.name} ends with {status} on the code as it is, so it catches nothing:\n{said}")
        return self._sound[catcher]


def _seed_of(said: str) -> str:
    """Which seed of a simulation found what."""
    found = re.search(r"^seed (\d+): (.{1,100})", said, re.MULTILINE)
    return f" (seed {found[1]}, {found[2].strip()})" if found else ""
