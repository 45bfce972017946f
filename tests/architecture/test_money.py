"""Quantities and money are integers or decimals. A float may count seconds, and then its name says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source import sources

# Where figures of events and of money are made, added up, compared or stored.
MONEY = ("metering", "meterline_schemas", "billing_exporter", "store")
SECONDS = ("_s", "_s_min", "_s_max", "_seconds", "timeout")

EXEMPT = {
    # (file, the name that it stands in): why it is no figure of money
    ("metering/export_states.py", "after_send"): "`spread` and the factors of a wait",
    ("billing_exporter/schedule.py", "turn"): "seconds until the next look",
    ("billing_exporter/schedule.py", "_until_next"): "seconds until the next look",
    ("billing_exporter/stripe_gateway.py", "_whole"): "Stripe's SDK hands over a JSON number; it is refused unless it is whole",
}


def _floats(node: ast.AST, inside: tuple[str, ...] = ()) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """(line, the names it stands in, what) of every float type and float literal below `node`."""
    inside = (*inside, *_names(node))
    if isinstance(node, ast.Name) and node.id == "float":
        yield node.lineno, inside, "the type float"
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield node.lineno, inside, f"the literal {node.value}"
    if isinstance(node, ast.arguments):
        # A default stands in the parameter that it belongs to, which the tree keeps apart.
        parameters = [*node.posonlyargs, *node.args]
        defaults = [*zip(parameters[len(parameters) - len(node.defaults) :], node.defaults, strict=True)]
        defaults += [(parameter, value) for parameter, value in zip(node.kwonlyargs, node.kw_defaults, strict=True) if value]
        for parameter, value in defaults:
            yield from _floats(value, (*inside, parameter.arg.lower()))
    for below in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.arguments) and isinstance(below, ast.expr)):
            yield from _floats(below, inside)


def _names(node: ast.AST) -> list[str]:
    """What is named here: a function, a parameter, an assigned variable, a called thing whose arguments are seconds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name.lower()]
    if isinstance(node, ast.arg | ast.keyword):
        return [(node.arg or "").lower()]
    if isinstance(node, ast.AnnAssign):
        return [ast.unparse(node.target).lower()]
    if isinstance(node, ast.Assign):
        # `first_s, most_s = 0.5, 900.0` is in seconds when each of them is.
        names = [name.lower() for target in node.targets for name in ast.unparse(target).strip("()").split(", ")]
        return [names[0] if len(names) == 1 or all(name.endswith(SECONDS) for name in names) else "several names"]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Backoff", "stop.wait", "pause.wait"):
        return ["wait_s"]
    return []


@pytest.mark.parametrize("package", MONEY)
def test_no_float_is_near_money(package: str) -> None:
    found = [
        f"{source.name}:{line}: {what} in {'.'.join(inside) or 'the module'}"
        for source in sources(package)
        for line, inside, what in _floats(source.tree)
        if not any(name.endswith(SECONDS) for name in inside) and not any((source.name, name) in EXEMPT for name in inside)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("price = float(text)", 1),
        ("total: float = 0", 1),
        ("total = quantity * 0.01", 1),
        ("def share(part: float) -> int: ...", 1),
        ("wait_s, price = 0.5, 0.5", 2),
        ("wait_s = 0.5", 0),
        ("def wait(timeout_s: float = 5.0) -> None: ...", 0),
        ("first_s, most_s = 0.5, 900.0", 0),
    ],
)
def test_the_rule_sees_a_float_where_there_is_one(code: str, count: int) -> None:
    found = [inside for _, inside, _ in _floats(ast.parse(code)) if not any(name.endswith(SECONDS) for name in inside)]
    assert len(found) == count
