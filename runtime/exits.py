"""Exit codes that mean something: a supervisor, and the person who reads its log, can tell them apart."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Why a process left. 0 and 1 are as everywhere; 2 is a wrong command line."""

    OK = 0
    FAILED = 1
    USAGE = 2
    SETTINGS = 3
    """A setting is missing or wrong; restarting does not help."""
    UNREACHABLE = 4
    """A dependency stayed away for longer than the retry limit; a restart tries again."""
    TOPIC_SETTINGS = 10
    """The events topic is not append-timed, deletes by compaction, or elects unclean leaders."""
    TOPIC_REPLACED = 11
    """The topic is not the one of its epoch: made anew under its name, or partitions were added by hand."""
    RULES_UNKNOWN = 12
    """This build lacks the rules version in force."""
    LOG_TRUNCATED = 13
    """The position to go on from lies below the log's start."""
    INDEX_MISMATCH = 14
    """ClickHouse does not hold what the committed position says it holds (a lagging replica, a restored backup)."""
    OWNERSHIP_LOST = 15
    """Another member owns the partition now; nothing of this process's work is trusted."""
    FENCE_MISMATCH = 16
    """A delta does not continue the fence, and ClickHouse does not explain the difference."""
    STALLED = 17
    """A position stood still while its log moved, and nothing was known that it waited for."""


class MeterlineExit(Exception):
    """Ends the process with a named code. The message says what was found and what to do about it."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code
