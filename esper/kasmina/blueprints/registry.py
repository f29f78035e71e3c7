"""Blueprints by topology and name."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from esper.checks import QUOTED, did_you_mean
from esper.errors import BlueprintError
from esper.factories import own_code
from esper.leyline.blueprints import BLUEPRINTS, BlueprintSpec, refusal, register_blueprint

REFERENCE_WIDTH = 64  # C at which every `param_estimate` is stated
BlueprintFactory = Callable[..., nn.Module]


class BlueprintRegistry:
    """Every blueprint known; importing `esper.kasmina.blueprints` fills in the ones that esper ships."""

    _specs: ClassVar[dict[str, dict[str, BlueprintSpec]]] = BLUEPRINTS

    @classmethod
    def register(
        cls,
        name: str,
        topology: str,
        param_estimate: int | None = None,
        description: str = "",
        family: str | None = None,
    ) -> Callable[[BlueprintFactory], BlueprintFactory]:
        """Decorator for a function `(dim, **options) -> nn.Module`: `esper.leyline.blueprints.register_blueprint`."""
        return register_blueprint(name, topology, param_estimate, description, family, cls._specs)

    @classmethod
    def list_specs(cls, topology: str) -> list[BlueprintSpec]:
        """The topology's blueprints, fewest parameters first. Raises: BlueprintError on an unknown topology."""
        if topology not in cls._specs:
            known = ", ".join(sorted(cls._specs)) or "none"
            raise BlueprintError(
                f"no topology {topology!r}: known are {known}{did_you_mean(topology, cls._specs, QUOTED)}"
            )
        built = [spec for spec in cls._specs[topology].values() if spec.builder is not None]  # by this torch
        return sorted(built, key=lambda spec: (spec.param_estimate or 0, spec.name))

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
        """Build a blueprint at a width of `dim` channels.

        Raises: BlueprintError as `spec` does, and where one of a user's own fails, or gives no module.
        """
        spec = cls.spec(topology, name)
        if not spec.is_own:
            built: nn.Module = spec.factory(dim, **options)
            return built
        with own_code(f"blueprint {name!r}", BlueprintError):
            own = spec.factory(dim, **options)
        if not isinstance(own, nn.Module):
            given = type(own).__name__
            raise BlueprintError(f"blueprint {name!r}: {spec.target} gave {given}, and a seed is an nn.Module")
        return own
