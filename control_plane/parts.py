"""What the control plane is made of in one process: built once, handed down. Tests put their own in."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.unit import Units
from runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """What endpoints, RPCs and loops share."""

    settings: Settings
    units: Units


def parts_of(settings: Settings) -> Parts:
    """The real ones; nothing connects yet."""
    return Parts(settings, Units(settings))
