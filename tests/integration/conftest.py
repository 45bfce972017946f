"""Integration tests run on real servers: see `tests/running_stack.py`."""

from tests.stack_fixtures import migrated, settings, stack

__all__ = ["migrated", "settings", "stack"]
