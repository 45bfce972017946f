"""One module a bench; `tests/bench/__init__.py` tells how to write one."""
