"""plans.yaml to a Catalog. Every scalar stays text until the model reads it, so 1.5 is never a float; every problem
is told with its line and path."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from store.catalog_model import Catalog

FILE_BYTES_MAX = 8 << 20
DEPTH_MAX = 10
ENTRIES_MAX = 1_000_000
"""Aliases count as often as they are used, so a small file cannot grow to a large one."""
PROBLEMS_SHOWN_MAX = 20

Where = tuple[str, ...]


class CatalogError(ValueError):
    """The file is not a catalog; the message names each line and what is wrong there."""


def read_catalog(path: Path) -> tuple[Catalog, str]:
    """The catalog of a file, and its text. Raises CatalogError, or OSError when the file cannot be read."""
    size = path.stat().st_size
    if size > FILE_BYTES_MAX:
        raise CatalogError(f"{path}: {size} bytes, at most {FILE_BYTES_MAX} are read")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CatalogError(f"{path}: byte {error.start} is not UTF-8") from None
    return parse_catalog(text, str(path)), text


def parse_catalog(text: str, name: str = "plans.yaml") -> Catalog:
    """The catalog of a text. Raises CatalogError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise CatalogError(f"{name}: {error}") from None
    except RecursionError:
        raise CatalogError(f"{name}: nested deeper than {DEPTH_MAX}") from None
    if root is None:
        raise CatalogError(f"{name}: holds nothing")
    lines: dict[Where, int] = {}
    problems: list[tuple[int, Where, str]] = []
    data = _plain(root, (), lines, problems)
    if not problems:
        try:
            catalog = Catalog.model_validate(data)
        except ValidationError as error:
            for problem in error.errors():
                path = tuple(str(part) for part in problem["loc"] if part != "[key]")
                message = (
                    "no such field" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
                )
                problems.append((_line(lines, path), path, message))
        else:
            problems.extend((_line(lines, path), path, message) for path, message in catalog.dangling())
            if not problems:
                return catalog
    problems.sort()
    shown = [f"{name}:{line}: {'.'.join(path) or 'the file'}: {message}" for line, path, message in problems[:PROBLEMS_SHOWN_MAX]]
    if len(problems) > PROBLEMS_SHOWN_MAX:
        shown.append(f"and {len(problems) - PROBLEMS_SHOWN_MAX} more")
    raise CatalogError("\n".join(shown))


def _line(lines: dict[Where, int], path: Where) -> int:
    """The line of the path, or of what it stands in when it is not there itself."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _plain(node: yaml.Node, path: Where, lines: dict[Where, int], problems: list[tuple[int, Where, str]]) -> object:
    """The node as dicts, lists and text; only a plain empty or null scalar is None."""
    line = node.start_mark.line + 1
    lines[path] = line
    if len(path) > DEPTH_MAX or len(lines) > ENTRIES_MAX:
        if len(problems) <= PROBLEMS_SHOWN_MAX:
            problems.append((line, path, f"nested deeper than {DEPTH_MAX}, or more than {ENTRIES_MAX} entries"))
        return None
    if isinstance(node, yaml.ScalarNode):
        return None if node.style is None and node.value in ("", "~", "null") else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*path, str(index)), lines, problems) for index, child in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    found: dict[str, object] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append((key_line, path, "a name must be text"))
            continue
        key = key_node.value
        if key in found:
            problems.append((key_line, (*path, key), "stands here a second time"))
        found[key] = _plain(value_node, (*path, key), lines, problems)
        lines[(*path, key)] = key_line
    return found
