"""What can be planted, known without loading it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper.checks import QUOTED, did_you_mean
from esper.errors import BlueprintError
from esper.leyline.topologies import TOPOLOGIES
from esper.registry import Part, Registry

# What planting a blueprint counts as, for whoever tells no more kinds apart. In a language model dense layers stand in
# for convolutions, and low-rank ones for depthwise: each pair is the full and the thrifty way to do the same. What
# weighs features by features counts as attention.
FAMILIES = ("conv", "attention", "norm", "depthwise")


@dataclass(frozen=True, kw_only=True)
class BlueprintSpec(Part):
    """One blueprint. param_estimate: its number of parameters at the reference width. family: one of FAMILIES."""

    config: type = dict  # a seed's options are keywords
    topology: str
    family: str = FAMILIES[0]
    param_estimate: int = 0
    description: str = ""

    @property
    def factory(self) -> Callable[..., Any]:
        """`(dim, **options) -> nn.Module`, once it is registered."""
        assert self.builder is not None
        return self.builder


# topology -> name -> blueprint, fewest parameters first: esper.kasmina.blueprints adds what else there is to each.
BLUEPRINTS: dict[str, dict[str, BlueprintSpec]] = {topology: {} for topology in TOPOLOGIES}


def blueprints_of(topology: str, parts: dict[str, dict[str, BlueprintSpec]]) -> Registry[dict[str, Any], Any]:
    """The blueprints of one kind of host, by the rules of all registries; `parts` gets a topology that it lacks."""
    return Registry("blueprint", parts.setdefault(topology, {}), f" for topology {topology!r}", BlueprintError)


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


def family_of(name: str) -> str | None:
    """What planting a blueprint of this name counts as, whatever the host; None where nobody has registered one."""
    return next((specs[name].family for specs in BLUEPRINTS.values() if name in specs), None)


def refusal(topology: str, name: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """Why hosts of this topology take no blueprint of this name; None where they do. known: names by topology."""
    own = list(known[topology])
    if name in own:
        return None
    if elsewhere := [other for other, names in known.items() if name in names]:
        return f"{name!r} is for {' and '.join(elsewhere)} hosts: {topology} hosts take {', '.join(own)}"
    return f"no {topology} blueprint {name!r}{did_you_mean(name, own, QUOTED)}\n  known are {', '.join(own) or 'none'}"
