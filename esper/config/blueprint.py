"""Group `blueprint`: what may be planted."""

from dataclasses import dataclass

from esper.config.checks import distinct


@dataclass(kw_only=True)
class BlueprintSchema:
    """`names: null` means every blueprint registered for the host's topology."""

    names: list[str] | None

    def __post_init__(self) -> None:
        if self.names is not None:
            distinct("blueprint.names", self.names)
