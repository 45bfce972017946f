"""How deep a JSON text nests, found without parsing it: no stack is involved, so no caller's stack decides."""

from __future__ import annotations

import re

# A string, closed or running to the end, else a run of what matters. Possessive: no backtracking on long texts.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?+|[\[{]++|[\]}]++', re.DOTALL)


def nesting_of(value: bytes) -> int:
    """The most brackets and braces that stand open at once outside of strings; 1 for `{}`.

    Defined for every byte string, JSON or not: a closing bracket closes whatever is open, none below zero.
    """
    depth = deepest = 0
    for token in _TOKENS.findall(value):
        first = token[0]
        if first == 0x22:
            continue
        if first in b"[{":
            depth += len(token)
            deepest = max(deepest, depth)
        else:
            depth = max(0, depth - len(token))
    return deepest
