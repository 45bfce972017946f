"""What goes wrong in the embedded stack, always with what to do about it."""

from __future__ import annotations

from runtime.exits import Exit, MeterlineExit


class EmbeddedError(MeterlineExit):
    """A part of the embedded stack cannot be had, started or kept. The message says what was found and names the remedy."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(code, message)


class StackRunsElsewhereError(EmbeddedError):
    """Another process holds the data folder: nothing in it may be touched."""
