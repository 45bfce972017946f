"""The manual's table of who may call which route of the control plane; `python -m tests.integration.control_plane_table`."""

from __future__ import annotations

import sys
from typing import get_args

from access.principals import Who
from control_plane.http.nouns import NOUNS
from control_plane.http.routes import allowed_of


def table() -> str:
    """In the order of paths."""
    lines = ["| route | for |", "|---|---|"]
    for (method, path), allowed in sorted(allowed_of(NOUNS).items(), key=lambda route: (route[0][1], route[0][0])):
        who = "open" if allowed is None else ", ".join(role for role in get_args(Who) if role in allowed)
        lines.append(f"| `{method} {path.replace(':path}', '}')}` | {who} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
