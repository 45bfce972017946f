"""`.env.example`, made from the settings model: `python -m runtime.env_example > .env.example`."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from runtime.settings import Settings, variables

WIDTH = 118

HEAD = """\
Every setting of Meterline with its default. Made from runtime/settings.py by `python -m runtime.env_example`, and
tested to be equal to it: change the model, not this file.

Nothing reads this file by itself. Copy what you change into .env, and have that read by whatever starts the processes
(`set -a; . ./.env; set +a` in a shell, EnvironmentFile= of systemd). Settings are read once, when a process starts. An
empty value counts as absent. METERLINE_X wins over the other names that a setting has.
"""

NOTES = {
    "Unused": "Other services of the field have these. They are accepted, do nothing, and `meterline doctor` names them.",
}


def render() -> str:
    """The whole file. Read as an environment it gives the default settings."""
    parts = [_commented(HEAD)]
    section = ""
    for field, names in variables().items():
        info = Settings.model_fields[field]
        if (found := _extra(info, "section")) != section:
            section = str(found)
            parts.append(f"# {f' {section} ':-^{WIDTH - 2}}")
            if section in NOTES:
                parts.append(_commented(NOTES[section]))
        parts.append(_commented(" ".join(_about(info, names[1:]))) + f"{names[0]}={_shown(info.default)}\n")
    return "\n".join(parts)


def _about(info: FieldInfo, aliases: tuple[str, ...]) -> Iterator[str]:
    assert info.description, "a setting without a description"
    yield info.description
    if choices := _choices(info.annotation):
        yield f"One of {', '.join(choices)}."
    if bounds := _bounds(info.metadata):
        yield f"Bounds: {bounds}."
    if aliases:
        yield f"Also read from {', '.join(aliases)}."


def _bounds(metadata: list[Any]) -> str:
    words = []
    for limit in metadata:
        match limit:
            case Ge(ge=value):
                words.append(f">= {value}")
            case Gt(gt=value):
                words.append(f"> {value}")
            case Le(le=value):
                words.append(f"<= {value}")
            case Lt(lt=value):
                words.append(f"< {value}")
            case _:
                raise ValueError(f"no words for the bound {limit!r}; give it some here")
    return ", ".join(words)


def _choices(annotation: Any) -> list[str]:
    """Of a Literal, also where it may be absent."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in _choices(part)]


def _shown(default: object) -> str:
    """The default as a value of the environment; nothing for an absent one."""
    match default:
        case None:
            return ""
        case SecretStr():
            return default.get_secret_value()
        case str() | int() | float() | Path():
            return str(default)
        case _:
            raise ValueError(f"no text for the default {default!r}; give it some here")


def _extra(info: FieldInfo, name: str) -> object:
    assert isinstance(info.json_schema_extra, dict)
    return info.json_schema_extra[name]


def _commented(text: str) -> str:
    """As comment lines, paragraphs kept."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += ["#", *(f"# {line}" for line in textwrap.wrap(paragraph, WIDTH - 2, break_on_hyphens=False))]
    return "\n".join(lines[1:]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
