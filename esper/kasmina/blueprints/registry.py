"""Blueprints by topology and name."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from esper.checks import QUOTED, did_you_mean
from esper.errors import BlueprintError
from esper.leyline.blueprints import BLUEPRINTS, FAMILIES, BlueprintSpec, blueprints_of, refusal
from esper.registry import place

REFERENCE_WIDTH = 64  # C at which every `param_estimate` is stated
BlueprintFactory = Callable[..., nn.Module]


class BlueprintRegistry:
    """Every blueprint known; importing `esper.kasmina.blueprints` fills in the ones that esper ships."""

    _specs: ClassVar[dict[str, dict[str, BlueprintSpec]]] = BLUEPRINTS

    @classmethod
    def register(
        cls, name: str, topology: str, param_estimate: int, description: str = "", family: str | None = None
    ) -> Callable[[BlueprintFactory], BlueprintFactory]:
        """Decorator for a function `(dim, **options) -> nn.Module` that builds the blueprint at a width.

        The module must keep the shape of its input and start out as the identity.

        Args:
            family: what planting it counts as for IQL, one of FAMILIES; None: as the same name in another topology, or
                else the first of them.

        Raises:
            BlueprintError: the topology already has this name, or the family is not known or another elsewhere.
        """

        def add(factory: BlueprintFactory) -> BlueprintFactory:
            spec = BlueprintSpec(
                name=name,
                topology=topology,
                family=cls._family(name, family),
                param_estimate=param_estimate,
                description=description,
                target=place(factory),
                builder=factory,
            )
            blueprints_of(topology, cls._specs).add(spec)
            return factory

        return add

    @classmethod
    def _family(cls, name: str, wanted: str | None) -> str:
        """The family of a name. Records of runs hold names alone, so it is the same in all topologies."""
        elsewhere = next((specs[name].family for specs in cls._specs.values() if name in specs), None)
        family = wanted or elsewhere or FAMILIES[0]
        if family not in FAMILIES:
            hint = did_you_mean(family, FAMILIES, QUOTED)
            raise BlueprintError(f"blueprint {name!r}: no family {family!r}{hint}\n  known are {', '.join(FAMILIES)}")
        if elsewhere not in (None, family):
            raise BlueprintError(
                f"blueprint {name!r} is of the family {elsewhere!r} elsewhere: name it so, or rename one"
            )
        return family

    @classmethod
    def list_specs(cls, topology: str) -> list[BlueprintSpec]:
        """The topology's blueprints, fewest parameters first. Raises: BlueprintError on an unknown topology."""
        if topology not in cls._specs:
            known = ", ".join(sorted(cls._specs)) or "none"
            raise BlueprintError(
                f"no topology {topology!r}: known are {known}{did_you_mean(topology, cls._specs, QUOTED)}"
            )
        built = [spec for spec in cls._specs[topology].values() if spec.builder is not None]  # by this torch
        return sorted(built, key=lambda spec: (spec.param_estimate, spec.name))

    @classmethod
    def names(cls) -> dict[str, list[str]]:
        """The names of all blueprints by topology, fewest parameters first."""
        return {topology: [spec.name for spec in cls.list_specs(topology)] for topology in cls._specs}

    @classmethod
    def spec(cls, topology: str, name: str) -> BlueprintSpec:
        """One blueprint. Raises: BlueprintError, naming the known ones and the nearest, when there is none."""
        cls.list_specs(topology)
        if reason := refusal(topology, name, cls.names()):
            raise BlueprintError(reason)
        return cls._specs[topology][name]

    @classmethod
    def create(cls, topology: str, name: str, dim: int, **options: Any) -> nn.Module:
        """Build a blueprint at a width of `dim` channels. Raises: BlueprintError as `spec` does."""
        seed: nn.Module = cls.spec(topology, name).factory(dim, **options)
        return seed
