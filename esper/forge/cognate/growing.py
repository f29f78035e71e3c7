"""A trunk that grows while it trains: a run of `esper.run`, of one host, in a folder of the phase."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.config.composing import compose
from esper.errors import ExitCode, ForgeError
from esper.files import read_jsonl
from esper.files.records import METRICS_FILE
from esper.forge.budget import TrainingBudget
from esper.forge.phase import Interrupted
from esper.forge.training import BETAS
from esper.forge.trunk import trunk_from_run
from esper.kasmina.decoder import Decoder

if TYPE_CHECKING:
    from esper.forge.phase import PhaseContext

GROWN = "grown"  # the folder of the run
SIGNALLED = 128  # an exit code above it is this and the signal's number
LEAST_VAL_WINDOWS = 256


@dataclass(frozen=True, slots=True)
class GrownTrunk:
    """What has grown. seeds: planted, culled and fossilised in the run, by name."""

    network: Decoder
    seeds: Mapping[str, int]

    def note(self) -> str:
        """A sentence on it, for the report."""
        parts = ", ".join(f"{entry['blueprint']} behind {entry['slot']}" for entry in self.network.growth)
        planted, kept = self.seeds["planted"], self.seeds["fossilized"]
        return f"The trunk grew {parts or 'nothing'}: {planted} seeds planted, {kept} fossilised."


def grow_trunk(
    context: "PhaseContext", budget: TrainingBudget, epochs: int, checkpoint_every_steps: int, output: Path
) -> GrownTrunk:
    """Train a decoder on all domains while `esper.run`'s heuristic grows it; goes on from where it was stopped.

    Args: budget: of which an epoch is an even part. output: the phase's folder.

    Raises: Interrupted where a signal asked to stop, once the run is saved. EsperError where the run failed.
    """
    from esper.runner.launch import run_many
    from esper.runner.spec import RunSpec

    if context.should_stop():
        raise Interrupted("trunk")
    given = run_overrides(context, budget, epochs, checkpoint_every_steps)
    options = {"task": "corpus", "host": "decoder", "policy": "heuristic_text"}
    steps_per_epoch = budget.steps // epochs

    def tell(epoch: int) -> None:
        context.progress(epoch * steps_per_epoch, budget.steps, "trunk")

    (output / GROWN).mkdir(parents=True, exist_ok=True)
    (result,) = run_many([RunSpec(compose(given), output / GROWN, given, options)], tell)
    if result.error is not None:
        raise result.error
    if result.code > SIGNALLED:
        raise Interrupted("trunk", result.code - SIGNALLED)
    if result.code != ExitCode.DONE:
        raise ForgeError(f"{output / GROWN}: the run that grows the trunk ended with {result.code}")
    _log(context, output / GROWN, steps_per_epoch)
    return GrownTrunk(trunk_from_run(output / GROWN, context.tokenizer), result.record["summary"]["seeds"])


def run_overrides(
    context: "PhaseContext", budget: TrainingBudget, epochs: int, checkpoint_every_steps: int
) -> list[str]:
    """What `esper.run` is told: the phase's text, sizes and budget; controller, gates and blueprints stay its own."""
    model, corpus, steps_per_epoch = context.model, context.corpus_config, budget.steps // epochs
    values: dict[str, Any] = {
        "name": GROWN,
        "seed": context.seed,
        "epochs": epochs,
        "batch_size": budget.batch_size,
        "task.corpus": corpus.name,
        "task.paths": list(corpus.paths),
        "task.tokenizer": context.tokenizer_name,
        "task.block_size": model.block_size,
        "task.epoch_windows": steps_per_epoch * budget.batch_size,
        # Validation is to cost a fraction of training, and counts twice where a seed is tried without.
        "task.val_windows": max(LEAST_VAL_WINDOWS, steps_per_epoch * budget.batch_size // 4),
        "task.train_bytes": corpus.train_bytes,
        "task.val_bytes": corpus.val_bytes,
        "task.test_bytes": corpus.test_bytes,
        "host.n_embd": model.n_embd,
        "host.n_head": model.n_head,
        "host.n_layer": model.n_layer,
        "host.window": model.window,
        "slots.names": [f"block{layer}" for layer in range(1, model.n_layer + 1)],
        "optimizer.learning_rate": budget.learning_rate,
        "optimizer.weight_decay": budget.weight_decay,
        "optimizer.clip_norm": budget.max_grad_norm,
        "optimizer.betas": list(BETAS),
        "engine.members": 1,
        "controls": [],
        "engine.threads": context.threads,
        "checkpoint.every_epochs": max(1, checkpoint_every_steps // steps_per_epoch),
        "checkpoint.keep_last": 1,
        "checkpoint.keep_best": 0,
        "telemetry.console": "off",
        "telemetry.report": False,
    }
    groups = ["experiment=language", "task=corpus", "host=decoder", "engine=sequential"]
    return [*groups, *(f"{key}={_quoted(value)}" for key, value in values.items())]


def _quoted(value: Any) -> str:
    """As Hydra's grammar reads it back, whatever stands in a text."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(_quoted(item) for item in value) + "]"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return "null" if value is None else str(value).lower()


def _log(context: "PhaseContext", run: Path, steps_per_epoch: int) -> None:
    for line in read_jsonl(run / METRICS_FILE):
        if line.record and (epoch := line.record["epoch"]):
            (member,) = line.record["members"]
            kinds = {"loss": "train_loss", "val_loss": "val_loss", "parameters": "parameter_count"}
            figures = {f"trunk_{name}": float(member[kind] or math.nan) for name, kind in kinds.items()}
            context.log(epoch * steps_per_epoch, **figures)
