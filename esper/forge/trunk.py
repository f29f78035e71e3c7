"""A trunk that was grown: the decoder of a run of `esper.run host=decoder`, as a plain network."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from esper.config.composing import read_config
from esper.errors import ForgeError, FormatError
from esper.files import read_jsonl, read_object
from esper.files.records import CONFIG_FILE, METRICS_FILE, RUN_FILE, TOKENIZER
from esper.kasmina import Decoder, MorphogeneticModel
from esper.leyline import SeedStage
from esper.runner.checkpointing import load_member

if TYPE_CHECKING:
    from esper.tasks.text.tokenizer import Tokenizer

_WHOLE = (SeedStage.PROBATIONARY, SeedStage.FOSSILIZED)  # their share of the output is all of it
_TASKS = ("corpus", "text")  # which can be read by the forge's tokenizers
_EXPECTED = "expected a run of: python -m esper.run experiment=language host=decoder task=text task.tokenizer=bytes"


def trunk_from_run(run_folder: str | Path, tokenizer: "Tokenizer", member: int | None = None) -> Decoder:
    """A decoder that a run has grown, from its newest checkpoint, with what has grown in it as plain modules.

    Seeds that were not blended in as a whole yet, or are on their way out, are left out.

    Args:
        tokenizer: that the decoder must have read its text by.
        member: None: the grown one of lowest validation loss in the run's last epoch.

    Raises: ForgeError where the run is of another host, task or tokenizer; RunError, ConfigError and CheckpointError
    where it cannot be read.
    """
    folder = Path(run_folder)
    if not (folder / CONFIG_FILE).is_file():
        raise ForgeError(f"{folder}: no run lies there: it has no {CONFIG_FILE}\n  {_EXPECTED}")
    _check(folder, tokenizer)
    model = load_member(folder, _best_member(folder) if member is None else member)
    return plain_decoder(model)


def plain_decoder(model: MorphogeneticModel) -> Decoder:
    """A grown decoder without its slots: fossils and seeds on probation are plain parts, others left out; float32."""
    host = cast(Decoder, model.host)
    plain = Decoder(**host.architecture()["arguments"])
    own = {name: tensor for name, tensor in host.state_dict().items() if not name.startswith("slots.")}
    plain.load_state_dict(own)
    for name, slot in model.slots.items():
        state = slot.state
        if state is None or slot.seed is None or state.stage not in _WHOLE:
            continue
        module = plain.settle(model.slot_positions[name], state.blueprint_id, slot.config.max_ratio)
        module.load_state_dict(slot.seed.state_dict())
    return plain.float().eval()


def _check(folder: Path, tokenizer: "Tokenizer") -> None:
    config = read_config(folder / CONFIG_FILE)
    task: Any = config.task
    if config.host.name != "decoder":
        raise ForgeError(f"{folder}: its host is {config.host.name}, and no decoder\n  {_EXPECTED}")
    if task.name not in _TASKS or task.tokenizer is None:
        read = f"task={task.name}" + ("" if task.name not in _TASKS else " without a tokenizer")
        raise ForgeError(f"{folder}: its decoder has read {read}, and has other tokens\n  {_EXPECTED}")
    try:
        sha256 = read_object(folder / RUN_FILE).get(TOKENIZER)
    except (OSError, FormatError) as error:
        raise ForgeError(f"{folder}: its {RUN_FILE} cannot be read ({error})\n  {_EXPECTED}") from error
    if sha256 != tokenizer.sha256:
        raise ForgeError(
            f"{folder}: its decoder has read text by tokenizer {task.tokenizer}, and this is {tokenizer.name}: "
            f"they are not the same\n  to go on with it: tokenizer={task.tokenizer}"
        )


def _best_member(folder: Path) -> int:
    """The grown member of lowest validation loss in the last epoch that was recorded."""
    try:
        records = [line.record for line in read_jsonl(folder / METRICS_FILE) if line.record]
    except OSError as error:
        raise ForgeError(f"{folder}: its {METRICS_FILE} cannot be read ({error.strerror})\n  {_EXPECTED}") from error
    last = records[-1].get("members", ()) if records else ()
    grown = [row for row in last if not row.get("is_twin") and row.get("val_loss") is not None]
    if not grown:
        raise ForgeError(f"{folder}: its {METRICS_FILE} has no epoch yet; let the run train first")
    return int(min(grown, key=lambda row: row["val_loss"])["member"])
