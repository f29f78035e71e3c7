"""Where in a host a slot is, by the name that it goes by."""

from collections.abc import Sequence

from esper.checks import QUOTED, did_you_mean
from esper.errors import ConfigError


def resolve_slots(names: Sequence[str], positions: Sequence[str], key: str = "slots") -> dict[str, str]:
    """Each slot name with the position it means; `key` is what the names were given as, for messages.

    Raises: ConfigError on an unknown name or a position named twice.
    """
    depths = {"early": positions[0], "mid": positions[len(positions) // 2], "late": positions[-1]}
    known = depths | {position: position for position in positions}
    resolved: dict[str, str] = {}
    for name in names:
        if name not in known:
            listed = ", ".join(known)
            raise ConfigError(
                f"{key}: this host has no position {name!r}; it has {listed}{did_you_mean(name, known, QUOTED)}"
            )
        for other, position in resolved.items():
            if position == known[name]:
                raise ConfigError(
                    f"{key}: {other!r} and {name!r} both fall on {position}, and a position holds one slot; "
                    f"this host has {len(positions)}: drop one of the names or give the host more blocks"
                )
        resolved[name] = known[name]
    return resolved
