"""Implicit Q-learning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.simic.iql.model import IQL

__all__ = ["IQL"]


def __getattr__(name: str) -> Any:  # settings are read without torch
    if name != "IQL":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from esper.simic.iql.model import IQL

    return IQL
