"""IQL models in files, and how they do beside the heuristic (see `esper.study.evaluate.against_rule`)."""

import os
import warnings
from typing import TYPE_CHECKING, Any

from esper.simic.iql.model import IQL
from esper.simic.iql.slot_states import BASE_DIM, SEED_DIM, snapshot_to_features

if TYPE_CHECKING:
    from esper.study.evaluate.against_rule import head_to_head_comparison, live_comparison

__all__ = ["head_to_head_comparison", "live_comparison", "load_iql_model", "snapshot_to_features"]

_TELEMETRY = {BASE_DIM: "none", SEED_DIM: "seed", 54: "full"}


def __getattr__(name: str) -> Any:  # they play whole runs, and lie above what learns
    if name not in ("head_to_head_comparison", "live_comparison"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from esper.study.evaluate import against_rule

    return getattr(against_rule, name)


def load_iql_model(path: str | os.PathLike[str], device: Any = "cpu") -> tuple[IQL, bool, str]:
    """The model of a file, whether it sees telemetry, and which: "none", "seed" (37 features) or "full" (54).

    With any other number of features: a UserWarning, and "unknown".
    """
    model = IQL.load(path, device)
    telemetry = _TELEMETRY.get(model.state_dim, "unknown")
    if telemetry == "unknown":
        known = ", ".join(f"{dim} ({name})" for dim, name in _TELEMETRY.items())
        warnings.warn(
            f"{path}: the model sees {model.state_dim} features; known are {known}.", UserWarning, stacklevel=2
        )
    return model, telemetry in ("seed", "full"), telemetry
