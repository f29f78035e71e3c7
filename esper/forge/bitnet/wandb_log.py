"""Weights & Biases for a fine-tuner that no run logs for."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esper.errors import ForgeError


@contextmanager
def wandb_log(
    is_enabled: bool, config: Mapping[str, Any], folder: Path | None
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Gets (step, figures); without W&B they go nowhere. folder: where W&B keeps its files; None: as it likes."""
    if not is_enabled:
        yield lambda step, figures: None
        return
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb
    except ImportError:
        raise ForgeError("wandb_enabled: wandb is not installed\n  pip install 'esper[wandb]'") from None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(project="esper", job_type="bitnet", config=dict(config), dir=folder)
    run.define_metric("bitnet/step", hidden=True)
    run.define_metric("bitnet/*", step_metric="bitnet/step")
    try:
        yield lambda step, figures: run.log(
            {f"bitnet/{name}": value for name, value in {**figures, "step": step}.items()}
        )
    finally:
        run.finish()
