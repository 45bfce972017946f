"""A module is one idea, and its name says which."""

from __future__ import annotations

import ast

from tests.architecture.source import FOLDERS, ROOT, python_files

LINES_MAX = 400
# Names that hold anything, and so end up holding everything.
SAYS_NOTHING = {"base", "common", "helper", "helpers", "lib", "manager", "managers", "misc", "shared", "stuff", "util", "utils"}


def test_no_file_is_longer_than_one_idea() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in python_files()}
    long = {path.relative_to(ROOT).as_posix(): length for path, length in lengths.items() if length > LINES_MAX}
    assert not long


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {path.relative_to(ROOT): [*path.relative_to(ROOT).parts[:-1], path.stem] for path in python_files()}
    unsaid = {
        path.as_posix()
        for path, parts in names.items()
        if any(word in SAYS_NOTHING for part in parts for word in (part, *part.split("_")))
    }
    assert not unsaid


def test_every_folder_of_the_architecture_says_what_it_is_for() -> None:
    for package, folder in FOLDERS.items():
        docstring = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text("utf-8")))
        assert docstring, f"{package} has no docstring"
