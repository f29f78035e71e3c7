"""Phase 4: weights of -1, 0 and 1 and activations of 8 bits, trained so from what was there before."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.forge.bitnet.fine_tuner import FineTuner

__all__ = ["FineTuner"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.fine_tuner").FineTuner
