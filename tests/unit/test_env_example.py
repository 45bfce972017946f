"""`.env.example` is the settings model, read by people."""

from __future__ import annotations

import re
from pathlib import Path

from runtime.env_example import WIDTH, render
from runtime.settings import Settings, load_settings, variables

FILE = Path(__file__).parents[2] / ".env.example"


def _assignments(text: str) -> dict[str, str]:
    pairs = [line.partition("=") for line in text.splitlines() if line and not line.startswith("#")]
    assert all(sign == "=" for _, sign, _ in pairs)
    return {name: value for name, _, value in pairs}


def test_the_committed_file_is_the_model_of_today() -> None:
    assert FILE.read_text("utf-8") == render(), "run: python -m runtime.env_example > .env.example"


def test_it_assigns_every_setting_once_under_the_name_that_wins() -> None:
    assert list(_assignments(render())) == [names[0] for names in variables().values()]
    assert len(re.findall(r"^METERLINE_\w+=", render(), re.MULTILINE)) == len(Settings.model_fields)


def test_read_as_an_environment_it_gives_the_default_settings() -> None:
    assert load_settings(_assignments(render())) == Settings()


def test_it_shows_what_each_setting_is_for_its_bounds_and_its_other_names() -> None:
    text = " ".join(line.removeprefix("# ") for line in render().splitlines())
    for field, names in variables().items():
        description = Settings.model_fields[field].description
        assert description is not None
        before, _, _ = text.partition(f"{names[0]}=")
        assert description in before
        assert all(alias in before for alias in names[1:])
    assert "Bounds: >= 1, <= 1024." in text
    assert "Bounds: > 0, <= 600." in text
    assert "One of debug, info, warning, error." in text


def test_no_line_is_too_wide_to_read_and_every_section_stands_once() -> None:
    lines = render().splitlines()
    assert max(map(len, lines)) <= WIDTH
    headings = [line for line in lines if line.startswith("# ---")]
    assert len(headings) == len(set(headings)) > 5


def test_a_secret_has_no_default_worth_hiding() -> None:
    assignments = _assignments(render())
    secret = [name for name in assignments if name.endswith(("PASSWORD", "SECRET", "SECRET_KEY"))]
    assert len(secret) >= 4
    assert {assignments[name] for name in secret} == {""}
