"""The part of the Compose format that docker-compose.yml uses, written by hand after the Compose Specification.

It is not the published schema: that one knows more keys than these. What is not named here is refused, so a key that is
added to the file has to be added here, from the specification, too.
"""

from __future__ import annotations

from typing import Any

_NAME = "^[a-zA-Z0-9._-]+$"
_DURATION = {"type": "string", "pattern": r"^([0-9]+(us|ms|s|m|h))+$"}
_STRINGS = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
_COMMAND = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_SCALARS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
    }


_HEALTHCHECK = _object(
    {
        "test": {"type": "array", "items": {"type": "string"}, "minItems": 2, "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}]},
        "interval": _DURATION,
        "timeout": _DURATION,
        "retries": {"type": "integer", "minimum": 1},
        "start_period": _DURATION,
    },
    "test",
)

_DEPENDS_ON = {
    "type": "object",
    "patternProperties": {
        _NAME: _object(
            {
                "condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]},
                "restart": {"type": "boolean"},
                "required": {"type": "boolean"},
            },
            "condition",
        )
    },
    "additionalProperties": False,
}

_VOLUME = {
    "oneOf": [
        {"type": "string"},
        _object(
            {
                "type": {"enum": ["bind", "volume", "tmpfs", "cluster", "npipe", "image"]},
                "source": {"type": "string"},
                "target": {"type": "string"},
                "read_only": {"type": "boolean"},
            },
            "type",
        ),
    ]
}

_SERVICE = _object(
    {
        "build": _object({"context": {"type": "string"}, "dockerfile": {"type": "string"}}),
        "cap_drop": _STRINGS,
        "command": _COMMAND,
        "depends_on": _DEPENDS_ON,
        "environment": _SCALARS,
        "healthcheck": _HEALTHCHECK,
        "image": {"type": "string"},
        "init": {"type": "boolean"},
        "ports": _STRINGS,
        "profiles": _STRINGS,
        "read_only": {"type": "boolean"},
        "restart": {"type": "string", "pattern": r"^(no|always|unless-stopped|on-failure(:[0-9]+)?)$"},
        "security_opt": _STRINGS,
        "shm_size": {"type": ["integer", "string"]},
        "stop_grace_period": _DURATION,
        "stop_signal": {"type": "string", "pattern": "^SIG[A-Z]+$"},
        "tmpfs": _STRINGS,
        "ulimits": {
            "type": "object",
            "patternProperties": {
                "^[a-z]+$": {
                    "oneOf": [
                        {"type": "integer"},
                        _object({"soft": {"type": "integer"}, "hard": {"type": "integer"}}, "soft", "hard"),
                    ]
                }
            },
            "additionalProperties": False,
        },
        "volumes": {"type": "array", "items": _VOLUME, "uniqueItems": True},
    },
    "image",
)

COMPOSE_FORMAT: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(
        {
            "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
            "services": {"type": "object", "patternProperties": {_NAME: _SERVICE}, "additionalProperties": False},
            "volumes": {"type": "object", "patternProperties": {_NAME: {"type": "null"}}, "additionalProperties": False},
        },
        "services",
    ),
}
