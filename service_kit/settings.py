"""Reads the settings of a service once: YAML file, then environment, then --set; all problems reported at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from service_kit.sections import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)


class SettingsError(Exception):
    """The configuration cannot be used. `problems` has one sentence each: key, given value, its source, what is accepted."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """One key for the documentation."""

    key: str
    type: str
    default: str
    description: str


def load_settings(
    cls: type[S], *, config: Path | None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> S:
    """The settings from defaults, `config`, `environ` (os.environ when None) and `overrides` ("a.b=value"), later ones winning."""
    raise NotImplementedError


def describe(cls: type[ServiceSettings]) -> list[KeyDescription]:
    """Every key of a settings class, in order; entries of maps as `models.<id>.key`."""
    raise NotImplementedError


def effective(settings: ServiceSettings) -> dict[str, object]:
    """All dotted keys with the values in force, as JSON types, secrets masked."""
    raise NotImplementedError
