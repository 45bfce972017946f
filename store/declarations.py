"""Topics as data: `schemas/topics/*.yaml`, read strictly, with the settings that override a figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, field_validator

import meterline_schemas
from runtime.settings import Settings

EVENTS, DELTAS, ALERTS = "usage.events", "usage.deltas", "usage.alerts"

_DAY_MS = 24 * 3600 * 1000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _setting(name: str | None) -> str | None:
    if name is not None and name not in Settings.model_fields:
        raise ValueError(f"{name} is not a setting")
    return name


class Figure(_Strict):
    """A number, and the setting that overrides it if there is one."""

    default: Annotated[StrictInt, Field(ge=1)]
    setting: StrictStr | None = None

    _known = field_validator("setting")(_setting)

    def of(self, settings: Settings) -> int:
        """The figure that holds under these settings."""
        return int(getattr(settings, self.setting)) if self.setting else self.default


class NameSetting(_Strict):
    """The setting that holds the topic's name on this cluster."""

    setting: StrictStr

    _known = field_validator("setting")(_setting)


class Declaration(_Strict):
    """One topic as its file declares it."""

    name: Annotated[StrictStr, Field(pattern=r"^[a-z]+(\.[a-z]+)+$")]
    description: StrictStr
    value: StrictStr
    key: StrictStr
    schema_version: Annotated[StrictInt, Field(ge=1)]
    written_by: Annotated[list[StrictStr], Field(min_length=1)]
    read_by: Annotated[list[StrictStr], Field(min_length=1)]
    partitions: Figure
    replication: Figure
    retention_days: Figure
    topic: NameSetting
    compression: StrictStr
    config: dict[StrictStr, StrictStr]


@dataclass(frozen=True)
class Wanted:
    """A topic as it should stand on the cluster that the settings name."""

    declaration: Declaration
    topic: str
    partitions: int
    replication: int
    config: dict[str, str]

    @property
    def at_least(self) -> bool:
        """Whether more partitions do no harm: a delta goes to the one that has its events' number, and names its epoch."""
        return self.declaration.name == DELTAS

    def has_enough(self, partitions: int) -> bool:
        """Whether a topic with so many stands as wanted."""
        return partitions >= self.partitions if self.at_least else partitions == self.partitions

    def config_at(self, replication: int) -> dict[str, str]:
        """Its settings with that many replicas, which need not be the wanted ones."""
        # An acknowledged record must outlive the loss of a minority of its replicas. Asking for more of them than a topic
        # has would refuse every write.
        return {**self.config, "min.insync.replicas": str(replication // 2 + 1)}


def folder() -> Path:
    """Where the declarations lie: beside the package in the repository, inside it when it is installed."""
    package = Path(meterline_schemas.__file__).parent
    beside = package.parent / "topics"
    return beside if beside.is_dir() else package / "topics"


def load_declarations(source: Path | None = None) -> list[Declaration]:
    """Every declaration, by name. Raises ValueError naming the file and the field for anything that is not declared so."""
    declarations = []
    for path in sorted((source or folder()).glob("*.yaml")):
        try:
            declaration = Declaration.model_validate(yaml.safe_load(path.read_text("utf-8")))
        except yaml.YAMLError as error:
            raise ValueError(f"{path.name}: {error}") from error
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
            raise ValueError(f"{path.name}: {problems}") from None
        if path.stem != declaration.name:
            raise ValueError(f"{path.name}: declares {declaration.name}; want the file named {declaration.name}.yaml")
        declarations.append(declaration)
    missing = {EVENTS, DELTAS, ALERTS} - {declaration.name for declaration in declarations}
    if missing:
        raise ValueError(f"no declaration of {', '.join(sorted(missing))} in {source or folder()}")
    return declarations


def wanted(declaration: Declaration, settings: Settings) -> Wanted:
    """The declaration under these settings."""
    config: dict[str, Any] = {
        "compression.type": declaration.compression,
        "retention.ms": declaration.retention_days.of(settings) * _DAY_MS,
        **declaration.config,
    }
    return Wanted(
        declaration,
        topic=str(getattr(settings, declaration.topic.setting)),
        partitions=declaration.partitions.of(settings),
        replication=declaration.replication.of(settings),
        config={name: str(value) for name, value in sorted(config.items())},
    )
