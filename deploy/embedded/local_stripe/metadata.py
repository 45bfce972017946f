"""Metadata, merged key by key."""

from __future__ import annotations

from typing import Any

from deploy.embedded.local_stripe import forms
from deploy.embedded.local_stripe.problems import wrong

KEYS_MAX = 50
KEY_CHARS_MAX = 40
VALUE_CHARS_MAX = 500


def of(params: forms.Params) -> dict[str, str]:
    """The metadata of something new."""
    return _merged({}, forms.map_of(params, "metadata"))


def change(body: dict[str, Any], params: forms.Params) -> None:
    """Stripe's rule: a given key is set, an empty value removes its key, an empty map removes all."""
    if "metadata" in params:
        body["metadata"] = {} if params["metadata"] == "" else _merged(body["metadata"], forms.map_of(params, "metadata"))


def _merged(kept: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    result = dict(kept)
    for key, value in given.items():
        if len(key) > KEY_CHARS_MAX:
            raise wrong(f"metadata[{key[:40]}]", f"a key has at most {KEY_CHARS_MAX} characters")
        if len(value) > VALUE_CHARS_MAX:
            raise wrong(f"metadata[{key}]", f"a value has at most {VALUE_CHARS_MAX} characters")
        if value == "":
            result.pop(key, None)
        else:
            result[key] = value
    if len(result) > KEYS_MAX:
        raise wrong("metadata", f"at most {KEYS_MAX} keys")
    return result
