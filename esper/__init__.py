"""Esper grows neural networks while they train.

A run, as on the command line:
    launch         start a run and return when it has ended
    open_run       a run that is there, by its folder
    runs           all runs, filtered and sorted
    RunHandle      what these give: summary, metrics, events, members, report

Networks:
    grow           slots behind layers of a network of your own, for populations
    Grower         growth in a training loop of your own
    load_member    one member of a run, ready to predict
    export         a member as a file that needs no esper
    load_language_model    what the forge made

What is of your own:
    Data           what a task of your own gives: examples, splits, and what they are
    blueprint, task, host, policy, reward, sink    decorators that register parts of your own (plugins=[MODULE])

What can go wrong is an `esper.errors.EsperError`, whose message says what to do. Lightning and the Hugging Face Trainer
have callbacks in `esper.integrations`. `help(esper.launch)` and so on have the details.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.api.export import export
    from esper.api.grower import Grower
    from esper.api.handle import RunHandle
    from esper.api.launch import launch
    from esper.api.runs import open_run, runs
    from esper.config.parts import blueprint, host, policy, reward, sink, task
    from esper.forge.bundles import load_language_model
    from esper.kasmina.graft import grow
    from esper.runner.checkpointing import load_member
    from esper.tasks.data import Data

__version__ = "0.1.0"
__all__ = [
    "Data",
    "Grower",
    "RunHandle",
    "__version__",
    "blueprint",
    "export",
    "grow",
    "host",
    "launch",
    "load_language_model",
    "load_member",
    "open_run",
    "policy",
    "reward",
    "runs",
    "sink",
    "task",
]

# A thread that waits for another soon sleeps: on a busy machine one that spins keeps the other from running. The OpenMP
# runtime reads this when torch loads it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_LAZY = {
    "Data": "esper.tasks.data",
    "Grower": "esper.api.grower",
    "RunHandle": "esper.api.handle",
    "export": "esper.api.export",
    "grow": "esper.kasmina.graft",
    "launch": "esper.api.launch",
    "load_language_model": "esper.forge.bundles",
    "load_member": "esper.runner.checkpointing",
    **dict.fromkeys(("blueprint", "host", "policy", "reward", "sink", "task"), "esper.config.parts"),
    "open_run": "esper.api.runs",
    "runs": "esper.api.runs",
}


def __getattr__(name: str) -> Any:  # `import esper` stays light
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
