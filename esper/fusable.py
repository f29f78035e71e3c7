"""Which runs can train as members of one population."""

import json
from typing import Any

from esper.config.composing import to_plain
from esper.config.root import RunSchema

# What a member can carry by itself, or what only says how a run is shown and kept.
CARRIED = (
    "name",
    "seed",
    "blueprint",
    "gates",
    "policy",
    "reward",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.decay_share",
    "engine.members",
    "engine.twins",
    "engine.governor",
    "checkpoint",
    "telemetry",
)


def shared(config: RunSchema) -> str | None:
    """Equal for runs that can train as one program; None for one whose policy learns first, on hosts of its own."""
    if config.policy.learns:
        return None
    plain = to_plain(config)
    for key in CARRIED:
        _drop(plain, key)
    return json.dumps(plain, sort_keys=True)


def _drop(plain: dict[str, Any], key: str) -> None:
    group, _, rest = key.partition(".")
    if rest:
        _drop(plain[group], rest)
    else:
        del plain[group]
