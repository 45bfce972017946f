"""Stripe's request parameters: form fields with brackets, `metadata[plan]=pro`, `expand[0]=data`, to nested dictionaries.

Everything is bounded, and everything that is no such form raises a Problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from deploy.embedded.local_stripe.problems import Problem, missing, unknown, wrong

FIELDS_MAX = 1_000
DEPTH_MAX = 5
KEY_CHARS_MAX = 500

Params: TypeAlias = "dict[str, str | Params]"

_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_INTEGER = re.compile(r"-?[0-9]{1,15}")


def parse(text: bytes) -> Params:
    """The parameters of a query string or a form body."""
    params: Params = {}
    if not text:
        return params
    fields = text.split(b"&")
    if len(fields) > FIELDS_MAX:
        raise Problem(f"The request has more than {FIELDS_MAX} parameters.")
    for field in fields:
        name, _, value = field.partition(b"=")
        if name:
            _put(params, _decoded(name), _decoded(value))
    return params


def _decoded(raw: bytes) -> str:
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise Problem("The request is not valid UTF-8.") from None
    if "\0" in text:
        raise Problem("The request holds a null character.")
    return text


def _put(params: Params, key: str, value: str) -> None:
    match = _KEY.fullmatch(key)
    if match is None or len(key) > KEY_CHARS_MAX:
        raise Problem(f"Invalid parameter name: {key[:80]!r}")
    path = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
    if len(path) > DEPTH_MAX:
        raise Problem(f"Parameter {match[1]} is nested deeper than {DEPTH_MAX}.")
    here = params
    for step in path[:-1]:
        # `a[]=x` appends: the next number stands for the empty name
        inner = here.setdefault(step or str(len(here)), {})
        if isinstance(inner, str):
            raise wrong(match[1], "it is given both as a value and as a map")
        here = inner
    last = path[-1] or str(len(here))
    if isinstance(here.get(last), dict):
        raise wrong(match[1], "it is given both as a value and as a map")
    here[last] = value


def of_json(document: dict[str, object]) -> Params:
    """A JSON object as the same nested dictionaries, lists by their numbers, so that `/v2` and `/v1` are read alike."""
    return {name: _of_json(value, name, 1) for name, value in document.items() if value is not None}


def _of_json(value: object, name: str, depth: int) -> str | Params:
    if depth > DEPTH_MAX:
        raise Problem(f"Parameter {name} is nested deeper than {DEPTH_MAX}.")
    if isinstance(value, list):
        value = {str(number): item for number, item in enumerate(value)}
    if isinstance(value, dict):
        return {str(key): _of_json(inner, name, depth + 1) for key, inner in value.items() if inner is not None}
    return str(value).lower() if isinstance(value, bool) else str(value)


def only(params: Params, names: Iterable[str]) -> None:
    """Refuses parameters beside `names`; `expand` is taken everywhere and does nothing."""
    allowed = {*names, "expand"}
    for name in params:
        if name not in allowed:
            raise unknown(name)


def text_of(params: Params, name: str, *, most: int = 5_000) -> str | None:
    """A parameter as text, None when it is absent. Empty text is absent, as for Stripe, which clears a field by it."""
    value = params.get(name)
    if value is None:
        return None
    if isinstance(value, dict):
        raise wrong(name, "want a string")
    if len(value) > most:
        raise wrong(name, f"want at most {most} characters")
    return value


def required_text(params: Params, name: str, *, most: int = 5_000) -> str:
    """A parameter as text that must be there."""
    value = text_of(params, name, most=most)
    if not value:
        raise missing(name)
    return value


def integer_of(params: Params, name: str) -> int | None:
    """A parameter as a whole number, None when it is absent."""
    value = text_of(params, name)
    if value is None:
        return None
    if _INTEGER.fullmatch(value) is None:
        raise Problem(f"Invalid integer: {value[:40]}", code="parameter_invalid_integer", param=name)
    return int(value)


def required_integer(params: Params, name: str) -> int:
    """A parameter as a whole number that must be there."""
    value = integer_of(params, name)
    if value is None:
        raise missing(name)
    return value


def map_of(params: Params, name: str) -> dict[str, str]:
    """A parameter as a flat map of strings; empty when it is absent."""
    value = params.get(name, {})
    if isinstance(value, str):
        if value == "":
            return {}
        raise wrong(name, "want a map")
    flat: dict[str, str] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            raise wrong(f"{name}[{key}]", "want a string")
        flat[key] = inner
    return flat


def choice_of(params: Params, name: str, choices: Iterable[str]) -> str | None:
    """A parameter that must be one of `choices`, None when it is absent."""
    value = text_of(params, name)
    allowed = list(choices)
    if value is not None and value not in allowed:
        raise wrong(name, f"must be one of {', '.join(allowed)}")
    return value


def flag_of(params: Params, name: str) -> bool | None:
    """A parameter as a boolean, None when it is absent."""
    value = text_of(params, name)
    if value is None or value == "":
        return None
    if value not in ("true", "false"):
        raise Problem(f"Invalid boolean: {value[:40]}", code="parameter_invalid", param=name)
    return value == "true"


def inner_of(params: Params, name: str) -> Params:
    """A parameter as a map that may nest; empty when it is absent or cleared."""
    value = params.get(name, {})
    if isinstance(value, str):
        if value == "":
            return {}
        raise wrong(name, "want a map")
    return value


def rows_of(params: Params, name: str) -> list[Params]:
    """A parameter as a list of maps, in the order of its numbers: `items[0][price]=...`."""
    rows: list[Params] = []
    for key, row in _in_order(inner_of(params, name), name):
        if isinstance(row, str):
            raise wrong(f"{name}[{key}]", "want a map")
        rows.append(row)
    return rows


def texts_of(params: Params, name: str) -> list[str]:
    """A parameter as a list of strings."""
    texts: list[str] = []
    for key, text in _in_order(inner_of(params, name), name):
        if isinstance(text, dict):
            raise wrong(f"{name}[{key}]", "want a string")
        texts.append(text)
    return texts


def _in_order(given: Params, name: str) -> list[tuple[str, str | Params]]:
    for key in given:
        if not key.isdigit() or len(key) > 4:
            raise wrong(f"{name}[{key[:20]}]", "want a list, numbered from 0")
    return sorted(given.items(), key=lambda item: int(item[0]))


def expands(params: Params, field: str) -> bool:
    """Whether the answer shall hold a field that is left out by default; of a list, `data.` stands before it."""
    return bool({field, f"data.{field}"} & set(texts_of(params, "expand")))
