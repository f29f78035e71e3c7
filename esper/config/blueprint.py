"""Group `blueprint`: what may be planted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from esper.config.checks import distinct
from esper.errors import BlueprintError
from esper.leyline.blueprints import refusal
from esper.tamiyo.settings import PolicyConfig, check_in_catalogue


@dataclass(kw_only=True)
class BlueprintConfig:
    """`names: null` means every blueprint registered for the host's topology."""

    names: list[str] | None

    def __post_init__(self) -> None:
        if self.names is not None:
            distinct("blueprint.names", self.names)


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
        for name in getattr(policy, key):
            if key == "blueprints":
                check_in_catalogue(key, name, catalogue)
            elif name not in everywhere:
                raise BlueprintError(f"policy.{key}: {refusal(topology, name, known)}")
