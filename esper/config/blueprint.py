"""Group `blueprint`: what may be planted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from esper.config.checks import distinct
from esper.errors import BlueprintError
from esper.leyline.blueprints import BlueprintSpec, refusal
from esper.tamiyo.settings import PolicyConfig, check_in_catalogue


@dataclass(kw_only=True)
class BlueprintConfig:
    """`names: null` means every blueprint for the host's topology that esper ships, or that `plugins` bring."""

    names: list[str] | None

    def __post_init__(self) -> None:
        if self.names is not None:
            distinct("blueprint.names", self.names)


def is_offered(blueprint: BlueprintConfig, plugins: Sequence[str], spec: BlueprintSpec) -> bool:
    """Whether hosts may grow it. What other installed packages bring changes no run that does not name it."""
    if blueprint.names is not None:
        return spec.name in blueprint.names
    return not spec.is_own or spec.package in {module.partition(".")[0] for module in plugins}


def check_blueprints(
    blueprint: BlueprintConfig, policy: PolicyConfig, topology: str, known: Mapping[str, Sequence[str]]
) -> None:
    """Raise BlueprintError unless hosts of this topology take what is named. known: names by topology.

    What a policy would rather plant need not be for this topology, but for some.
    """
    for name in blueprint.names or ():
        if reason := refusal(topology, name, known):
            raise BlueprintError(f"blueprint.names: {reason}")
    catalogue = [(name, 0) for name in known[topology] if blueprint.names is None or name in blueprint.names]
    everywhere = {name for names in known.values() for name in names}
    for key in (field.name for field in fields(policy) if field.name.endswith("blueprints")):
        for name in value if isinstance(value := getattr(policy, key), list) else ():
            if key == "blueprints":
                check_in_catalogue(key, name, catalogue)
            elif name not in everywhere:
                raise BlueprintError(f"policy.{key}: {refusal(topology, name, known)}")
