"""A grown network, out of the run that grew it."""

import warnings
from pathlib import Path

from esper.build import build_growth
from esper.checkpoint import CheckpointManager, restoring
from esper.config.composing import read_config
from esper.errors import RunError
from esper.files.records import CONFIG_FILE
from esper.kasmina import MorphogeneticModel
from esper.kasmina.copying import copy_network
from esper.records import CHECKPOINT
from esper.resuming import differences, refuse


def load_member(run_dir: str | Path, member: int = 0, epoch: int | None = None) -> MorphogeneticModel:
    """One member of a run, ready to predict.

    Args: run_dir: the run's folder; member: grown members first, then their twins; epoch: of a checkpoint (None: the
    newest). Raises: RunError or CheckpointError where there is no such run, member or checkpoint, or the newest one is
    damaged: an older one's weights are given only when its epoch is asked for. ConfigError where config.yaml is not
    what the checkpoint was made under.
    """
    path = Path(run_dir)
    if not (path / CONFIG_FILE).is_file():
        raise RunError(f"{path}: it has no {CONFIG_FILE}; expected the folder of a run, such as outputs/NAME/ID")
    manager = CheckpointManager(path)
    if epoch is None:
        checkpoint = manager.load_newest_agent(f"esper.load_member({str(run_dir)!r}, epoch={{epoch}})")
        for unsaved in checkpoint.skipped:
            warnings.warn(f"epoch {checkpoint.epoch} is loaded: {unsaved.reason}", stacklevel=2)
    else:
        checkpoint = manager.load_agent(epoch)
    config = read_config(path / CONFIG_FILE)
    refuse(differences(config, checkpoint), checkpoint, path / CONFIG_FILE)
    with restoring(checkpoint, CHECKPOINT):
        growth = build_growth(config, checkpoint.metadata["engine"]).growth
        if not 0 <= member < len(growth.population):
            raise RunError(f"{path}: there is no member {member}; it has 0 to {len(growth.population) - 1}")
        growth.load_state(dict(checkpoint.tensors), checkpoint.state["growth"])
    return copy_network(growth.population.models[member]).eval()
