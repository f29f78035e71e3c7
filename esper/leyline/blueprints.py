"""Names of what can be planted, known without loading it."""

from collections.abc import Mapping, Sequence

from esper.checks import QUOTED, did_you_mean

# What esper ships, for each topology, fewest parameters first: as esper.kasmina.blueprints registers it.
BLUEPRINTS: dict[str, tuple[str, ...]] = {
    "cnn": (
        *("norm", "attention", "conv_small", "bottleneck"),
        *("depthwise", "conv_light", "conv_enhance", "conv_heavy"),
    ),
    "transformer": ("norm", "lora", "lora_large", "mlp_small", "attention", "flex_attention", "mlp"),
}


def refusal(topology: str, name: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """Why hosts of this topology take no blueprint of this name; None where they do. known: names by topology."""
    own = list(known[topology])
    if name in own:
        return None
    if elsewhere := [other for other, names in known.items() if name in names]:
        return f"{name!r} is for {' and '.join(elsewhere)} hosts: {topology} hosts take {', '.join(own)}"
    return f"no {topology} blueprint {name!r}{did_you_mean(name, own, QUOTED)}\n  known are {', '.join(own) or 'none'}"
