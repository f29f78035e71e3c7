"""What can be planted, known without loading it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeVar

from esper.checks import QUOTED, did_you_mean
from esper.errors import BlueprintError
from esper.leyline.topologies import TOPOLOGIES
from esper.registry import Part, Registry, place

Factory = TypeVar("Factory", bound=Callable[..., Any])

# What planting a blueprint counts as, for whoever tells no more kinds apart. In a language model dense layers stand in
# for convolutions, and low-rank ones for depthwise: each pair is the full and the thrifty way to do the same. What
# weighs features by features counts as attention.
FAMILIES = ("conv", "attention", "norm", "depthwise")


@dataclass(frozen=True, kw_only=True)
class BlueprintSpec(Part):
    """One blueprint. param_estimate: its number of parameters at the reference width; None: it is measured in a slot.
    family: one of FAMILIES."""

    config: type = dict  # a seed's options are keywords
    topology: str
    family: str = FAMILIES[0]
    param_estimate: int | None = 0
    description: str = ""

    @property
    def factory(self) -> Callable[..., Any]:
        """`(dim, **options) -> nn.Module`, once it is registered."""
        assert self.builder is not None
        return self.builder

    @property
    def takes_upstream(self) -> bool:
        """Whether the seed depends on the module before its slot."""
        return "upstream" in signature(self.factory).parameters


# topology -> name -> blueprint, fewest parameters first: esper.kasmina.blueprints adds what else there is to each.
BLUEPRINTS: dict[str, dict[str, BlueprintSpec]] = {topology: {} for topology in TOPOLOGIES}


def blueprints_of(topology: str, parts: dict[str, dict[str, BlueprintSpec]]) -> Registry[dict[str, Any], Any]:
    """The blueprints of one kind of host, by the rules of all registries; `parts` gets a topology that it lacks."""
    return Registry("blueprint", parts.setdefault(topology, {}), f" for topology {topology!r}", BlueprintError)


def register_blueprint(
    name: str,
    topology: str,
    param_estimate: int | None = None,
    description: str = "",
    family: str | None = None,
    parts: dict[str, dict[str, BlueprintSpec]] = BLUEPRINTS,
) -> Callable[[Factory], Factory]:
    """Decorator for a function `(dim, **options) -> nn.Module`, a seed for features of so many channels.

    The module keeps the shape of its input and starts as the identity, or is refused before a run begins. Of the
    options, the function gets those that it names: max_ratio (of the seed's norm to the host's) and upstream (the
    module whose output goes through the slot).

    Args:
        param_estimate: parameters at 64 channels; None: measured in the slots of each host.
        family: what planting it counts as for IQL, one of FAMILIES; None: as the same name in another topology, or
            else the first of them.
        parts: where it is kept.

    Raises:
        BlueprintError: the topology already has this name, or the family is not known or another elsewhere.
    """

    def add(factory: Factory) -> Factory:
        spec = BlueprintSpec(
            name=name,
            topology=topology,
            family=_family(name, family, parts),
            param_estimate=param_estimate,
            description=description,
            target=place(factory),
            builder=factory,
        )
        blueprints_of(topology, parts).add(spec)
        return factory

    return add


def _family(name: str, wanted: str | None, parts: dict[str, dict[str, BlueprintSpec]]) -> str:
    """The family of a name. Records of runs hold names alone, so it is the same in all topologies."""
    elsewhere = family_of(name, parts)
    family = wanted or elsewhere or FAMILIES[0]
    if family not in FAMILIES:
        hint = did_you_mean(family, FAMILIES, QUOTED)
        raise BlueprintError(f"blueprint {name!r}: no family {family!r}{hint}\n  known are {', '.join(FAMILIES)}")
    if elsewhere not in (None, family):
        raise BlueprintError(f"blueprint {name!r} is of the family {elsewhere!r} elsewhere: name it so, or rename one")
    return family


def _declare(topology: str, **families: str) -> None:
    known = blueprints_of(topology, BLUEPRINTS)
    for name, family in families.items():
        known.add(BlueprintSpec(name=name, topology=topology, family=family))


_declare(
    "cnn",
    norm="norm",
    attention="attention",
    conv_small="conv",
    bottleneck="conv",
    depthwise="depthwise",
    conv_light="conv",
    conv_enhance="conv",
    conv_heavy="conv",
)
_declare(
    "cnn1d",
    norm="norm",
    attention="attention",
    bottleneck="conv",
    conv_small="conv",
    depthwise="depthwise",
    conv_light="conv",
    conv_enhance="conv",
    conv_heavy="conv",
)
_declare("mlp", norm="norm", bottleneck="conv", gated="attention", hidden="conv", wide="conv")
_declare(
    "transformer",
    norm="norm",
    lora="depthwise",
    lora_large="depthwise",
    mlp_small="conv",
    attention="attention",
    flex_attention="attention",
    mlp="conv",
)


def blueprint_names() -> dict[str, list[str]]:
    """Names by topology, in the order in which they became known."""
    return {topology: list(specs) for topology, specs in BLUEPRINTS.items()}


def family_of(name: str, parts: dict[str, dict[str, BlueprintSpec]] = BLUEPRINTS) -> str | None:
    """What planting a blueprint of this name counts as, whatever the host; None where nobody has registered one."""
    return next((specs[name].family for specs in parts.values() if name in specs), None)


def refusal(topology: str, name: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """Why hosts of this topology take no blueprint of this name; None where they do. known: names by topology."""
    own = list(known[topology])
    if name in own:
        return None
    if elsewhere := [other for other, names in known.items() if name in names]:
        return f"{name!r} is for {' and '.join(elsewhere)} hosts: {topology} hosts take {', '.join(own)}"
    return f"no {topology} blueprint {name!r}{did_you_mean(name, own, QUOTED)}\n  known are {', '.join(own) or 'none'}"
