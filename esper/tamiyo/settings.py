"""Policies by name, and what their settings share: checks that name the key to mend."""

from collections.abc import Sequence
from dataclasses import dataclass

from esper.checks import QUOTED, did_you_mean
from esper.errors import BlueprintError, ConfigError
from esper.leyline import Controller
from esper.registry import Registry

Catalogue = Sequence[tuple[str, int]]  # what may be planted in this host: (blueprint, parameters)
BLENDS = ("linear", "sigmoid", "gated")


@dataclass(kw_only=True)
class PolicyConfig:
    """name: the policy these settings belong to."""

    name: str = ""

    @property
    def learns(self) -> bool:
        """Whether the policy has something to learn before it acts."""
        return False

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Files and folders of the user's that it is read from, each with the key that names it."""
        return []

    @property
    def note(self) -> str:
        """What nobody should miss who looks at a run of this policy."""
        return ""


POLICIES: Registry[PolicyConfig, Controller] = Registry("policy")  # by rule; what learns is in esper.simic


def check_within(key: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless low <= value <= high."""
    if not low <= value <= high:
        raise ConfigError(f"policy.{key}={value}: expected a value from {low:g} to {high:g}")


def check_blend(key: str, value: str) -> None:
    """Raise ConfigError unless the value names a blend algorithm."""
    if value not in BLENDS:
        raise ConfigError(f"policy.{key}={value}: expected one of {', '.join(BLENDS)}{did_you_mean(value, BLENDS)}")


def check_in_catalogue(key: str, blueprint: str, catalogue: Catalogue) -> None:
    """Raise BlueprintError, with the nearest match, unless the catalogue has the blueprint."""
    known = [name for name, _ in catalogue]
    if blueprint not in known:
        raise BlueprintError(
            f"policy.{key}: {blueprint!r} cannot be planted in this host{did_you_mean(blueprint, known, QUOTED)}\n"
            f"  known here: {', '.join(known)}"
        )
