"""Language models made, merged, taught, quantised and compressed, in phases that hand on files alone."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.forge.launch import run_phase
    from esper.forge.phase import PhaseResult

__all__ = ["PhaseResult", "run_phase"]

_LAZY = {"PhaseResult": "phase", "run_phase": "launch"}


def __getattr__(name: str) -> Any:  # the command line answers without torch
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
