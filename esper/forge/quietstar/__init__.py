"""Phase 3: thinking before answering, baked in and then reinforced by whether the answer is right."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.forge.quietstar.config import RLConfig
    from esper.forge.quietstar.reinforce import REINFORCETrainer

__all__ = ["REINFORCETrainer", "RLConfig"]

_LAZY = {"REINFORCETrainer": "reinforce", "RLConfig": "config"}  # name -> module; the configuration needs no torch


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
