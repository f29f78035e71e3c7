"""Blueprints by topology and name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from esper.checks import QUOTED, did_you_mean
from esper.errors import BlueprintError
from esper.leyline.blueprints import refusal

REFERENCE_WIDTH = 64  # C at which every `param_estimate` is stated
BlueprintFactory = Callable[..., nn.Module]


@dataclass(frozen=True, slots=True)
class BlueprintSpec:
    """One blueprint; `param_estimate` is its number of parameters at REFERENCE_WIDTH channels."""

    name: str
    topology: str
    param_estimate: int
    description: str
    factory: BlueprintFactory


class BlueprintRegistry:
    """Every blueprint known; importing `esper.kasmina.blueprints` fills in the ones that esper ships."""

    _specs: ClassVar[dict[str, dict[str, BlueprintSpec]]] = {}

    @classmethod
    def register(
        cls, name: str, topology: str, param_estimate: int, description: str = ""
    ) -> Callable[[BlueprintFactory], BlueprintFactory]:
        """Decorator for a function `(dim, **options) -> nn.Module` that builds the blueprint at a width.

        The module must keep the shape of its input and start out as the identity.

        Raises: BlueprintError when the topology already has this name.
        """

        def add(factory: BlueprintFactory) -> BlueprintFactory:
            known = cls._specs.setdefault(topology, {})
            if name in known:
                raise BlueprintError(f"blueprint {name!r} is registered twice for topology {topology!r}: rename one")
            known[name] = BlueprintSpec(name, topology, param_estimate, description, factory)
            return factory

        return add

    @classmethod
    def list_specs(cls, topology: str) -> list[BlueprintSpec]:
        """The topology's blueprints, fewest parameters first. Raises: BlueprintError on an unknown topology."""
        if topology not in cls._specs:
            known = ", ".join(sorted(cls._specs)) or "none"
            raise BlueprintError(
                f"no topology {topology!r}: known are {known}{did_you_mean(topology, cls._specs, QUOTED)}"
            )
        return sorted(cls._specs[topology].values(), key=lambda spec: (spec.param_estimate, spec.name))

    @classmethod
    def names(cls) -> dict[str, list[str]]:
        """The names of all blueprints by topology, fewest parameters first."""
        return {topology: [spec.name for spec in cls.list_specs(topology)] for topology in cls._specs}

    @classmethod
    def spec(cls, topology: str, name: str) -> BlueprintSpec:
        """One blueprint. Raises: BlueprintError, naming the known ones and the nearest, when there is none."""
        specs = {spec.name: spec for spec in cls.list_specs(topology)}
        if reason := refusal(topology, name, cls.names()):
            raise BlueprintError(reason)
        return specs[name]

    @classmethod
    def create(cls, topology: str, name: str, dim: int, **options: Any) -> nn.Module:
        """Build a blueprint at a width of `dim` channels. Raises: BlueprintError as `spec` does."""
        return cls.spec(topology, name).factory(dim, **options)
