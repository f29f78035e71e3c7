"""Esper grows neural networks while they train."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.config.parts import blueprint, host, policy, reward, sink, task
    from esper.forge.bundles import load_language_model
    from esper.kasmina.graft import grow
    from esper.runner.checkpointing import load_member
    from esper.tasks.data import Data

__version__ = "0.1.0"
__all__ = [
    "Data",
    "__version__",
    "blueprint",
    "grow",
    "host",
    "load_language_model",
    "load_member",
    "policy",
    "reward",
    "sink",
    "task",
]

# A thread that waits for another soon sleeps: on a busy machine one that spins keeps the other from running. The OpenMP
# runtime reads this when torch loads it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_LAZY = {
    "Data": "esper.tasks.data",
    "grow": "esper.kasmina.graft",
    "load_language_model": "esper.forge.bundles",
    "load_member": "esper.runner.checkpointing",
    **dict.fromkeys(("blueprint", "host", "policy", "reward", "sink", "task"), "esper.config.parts"),
}


def __getattr__(name: str) -> Any:  # `import esper` stays light
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
