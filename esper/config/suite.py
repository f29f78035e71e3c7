"""Suites: what `esper evaluate` does with what a run has stored. Files of conf/suite, which is no group of a run."""

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esper.checks import did_you_mean, in_range, one_of, require
from esper.config.explain import explain
from esper.config.objects import to_object
from esper.config.options import conf_dir
from esper.errors import ConfigError, FormatError
from esper.files import read_yaml

# The suite itself decides these, and what is stored is what decides.
_NOT_OVERRIDDEN = ("seed", "resume", "controls", "engine.members", "policy.name", "policy.load", "policy.updates")


@dataclass(kw_only=True)
class SuiteConfig:
    """Values live in the file; `name` is the file's. Its seeds are first_seed, first_seed + 1, ..."""

    kind: ClassVar[str]

    name: str
    first_seed: int
    seeds: int

    def __post_init__(self) -> None:
        in_range("first_seed", self.first_seed, 0, 2**31 - 1)
        in_range("seeds", self.seeds, 1, 100_000)
        in_range("first_seed + seeds", self.first_seed + self.seeds, 0, 2**31)

    def content(self) -> dict[str, Any]:
        """All that decides what is measured on a seed, as plain values: suites that differ in it are two suites."""
        plain = asdict(self) | {"kind": self.kind}
        del plain["first_seed"], plain["seeds"]  # which seeds are measured changes none of them
        return plain


@dataclass(kw_only=True)
class GrowthSuite(SuiteConfig):
    """The stored controller grows new hosts, `members` on each seed."""

    kind: ClassVar[str] = "growth"

    members: int
    overrides: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("members", self.members, 1, 4096)
        for override in self.overrides:
            key, equals, _ = override.partition("=")
            require(bool(equals and key.strip()), "overrides", self.overrides, "key=value, such as [epochs=50]")
            if key in _NOT_OVERRIDDEN:
                raise ConfigError(f"overrides: {key} is not for a suite to change: seeds and members have keys here")


@dataclass(kw_only=True)
class HostSuite(SuiteConfig):
    """The stored hosts are tested as they are, on inputs that each seed distorts in its own way."""

    kind: ClassVar[str] = "hosts"

    rotation_degrees: float
    scale_range: list[float]
    shift_pixels: float
    noise_std: float
    replaced_share: float

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("rotation_degrees", self.rotation_degrees, 0, 180)
        ordered = len(self.scale_range) == 2 and 0.1 <= self.scale_range[0] <= self.scale_range[1] <= 10
        require(ordered, "scale_range", self.scale_range, "[smallest,largest] from 0.1 to 10")
        in_range("shift_pixels", self.shift_pixels, 0, 10_000)
        in_range("noise_std", self.noise_std, 0, 10)
        in_range("replaced_share", self.replaced_share, 0, 1)


KINDS: dict[str, type[SuiteConfig]] = {suite.kind: suite for suite in (GrowthSuite, HostSuite)}


def suites() -> list[str]:
    """The names of the suites that are shipped, in alphabetical order."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def read_suite(name: str) -> SuiteConfig:
    """The suite of this name, or in this file (`name` then ends in .yaml). Raises ConfigError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else _folder() / f"{name}.yaml"
    shown = name if path == Path(name) else f"suite/{name}.yaml"
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(
            f"suite {name}: there is no such suite{did_you_mean(name, suites())}\n"
            f"  suites: {', '.join(suites())}; or a file of your own, such as mine.yaml"
        ) from None
    except (OSError, FormatError) as error:
        raise ConfigError(f"{shown}: cannot be read as YAML ({getattr(error, 'strerror', None) or error})") from error
    try:
        return _checked(values, path.stem)
    except (ConfigError, OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{shown}: {explain(error, ())}") from error


def _folder() -> Path:
    return conf_dir() / "suite"


def _checked(values: Any, name: str) -> SuiteConfig:
    if not isinstance(values, dict) or "kind" not in values:
        raise ConfigError(f"expected lines of KEY: VALUE, kind first ({' or '.join(KINDS)})")
    one_of("kind", str(values["kind"]), KINDS)
    schema = KINDS[values["kind"]]
    keys = [field.name for field in fields(schema) if field.default is MISSING and field.name != "name"]
    given = {str(key): value for key, value in values.items() if key != "kind"}
    for key in given.keys() - set(keys):
        raise ConfigError(f"{key}: there is no such key{did_you_mean(key, keys)}\n  it has: {', '.join(keys)}")
    for key in keys:
        if key not in given:
            raise ConfigError(f"{key}: a value is missing; suite/default.yaml explains the keys")
    merged = OmegaConf.merge(OmegaConf.structured(schema), given | {"name": name})
    return cast(SuiteConfig, to_object(cast(DictConfig, merged)))
