"""Every noun that is offered over HTTP."""

from __future__ import annotations

from typing import Final

from control_plane.http.routes import Routes

NOUNS: Final[tuple[Routes, ...]] = ()
