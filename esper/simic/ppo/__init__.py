"""Proximal policy optimisation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.simic.ppo.agent import PPOAgent

__all__ = ["PPOAgent"]


def __getattr__(name: str) -> Any:  # settings are read without torch
    if name != "PPOAgent":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from esper.simic.ppo.agent import PPOAgent

    return PPOAgent
