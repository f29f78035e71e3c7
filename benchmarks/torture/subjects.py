"""The runs that are tortured, and what they come to undisturbed."""

import contextlib
import filecmp
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from esper.config import compose
from esper.config.root import RunConfig
from esper.files.marks import holds_run
from esper.runner.launch import resume, start
from esper.runner.spec import RunSpec

EPOCHS = 4
_TINY = (
    f"epochs={EPOCHS}",
    "gates=permissive",
    "engine=sequential",
    "engine.members=1",
    "controls=[]",
    "engine.threads=1",
    "engine.memory_format=contiguous",
    "checkpoint.every_epochs=1",
    "checkpoint.keep_last=2",
    "telemetry.report=false",
    "telemetry.console=off",
    "slots=early_late",
    "batch_size=256",
)
_DIGITS = ("task.image_size=8", "task.distortion=none", "task.val_copies=1", "host.channels=[2,4]")
_TEXT = (
    "host=decoder",
    "host.n_embd=8",
    "host.n_layer=2",
    "task=text",
    f"task.path={__file__}",
    "task.tokenizer=bytes",
    "task.block_size=16",
    "task.epoch_windows=32",
    "task.train_bytes=2048",
    "task.val_bytes=512",
    "task.test_bytes=512",
    "batch_size=16",
)
_RULES = ("policy=scheduled", "policy.plant_epochs=[1,1,1]", "policy.blend_epochs=[2,2,3]", "optimizer=adamw")
_LEARNS = ("policy.updates=2", "policy.members=1", "policy.rollout_steps=4", "policy.validation_episodes=1")
RULES, KEPT = "rules", "every checkpoint kept"
_SUBJECTS = {
    RULES: (*_DIGITS, *_RULES),
    "reinforce": (*_DIGITS, "policy=reinforce", *_LEARNS),
    "ppo": (*_DIGITS, "policy=ppo", *_LEARNS),
    "iql": (*_DIGITS, "policy=iql", "policy.steps=20", "policy.hidden=[8]"),
    "text": (*_TEXT, *_RULES, "policy.blueprints=[norm,lora,mlp]"),
    KEPT: (*_DIGITS, "policy=reinforce", *_LEARNS, "checkpoint.keep_last=9"),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A configuration, and the folder of its undisturbed run."""

    name: str
    config: RunConfig
    whole: Path

    def begin(self, run: Path) -> int:
        """Begin the run, or go on with it; the exit code."""
        if holds_run(run):
            return resume(run, [])
        run.mkdir(parents=True, exist_ok=True)
        return start(RunSpec(self.config, run))

    def lost(self, run: Path) -> str | None:
        """What of the run is not as it would have been; None where all is."""
        if _record(run).get("status") != "finished":
            return f"status {_record(run).get('status')}: {_record(run).get('error')}"
        for name in ("metrics.jsonl", "events.jsonl", "learning.jsonl"):
            if _lines(run / name) != _lines(self.whole / name):
                return f"{name} differs"
        newest = max((self.whole / "checkpoints").glob("*.safetensors"), key=lambda path: int(path.stem.split("_")[2]))
        if not filecmp.cmp(newest, run / "checkpoints" / newest.name, shallow=False):
            return f"{newest.name} differs"
        left = {path.name for path in run.rglob("*")} ^ {path.name for path in self.whole.rglob("*")}
        return f"files differ: {', '.join(sorted(left))}" if left else None


def subjects(folder: Path, names: Iterable[str] = tuple(_SUBJECTS)) -> dict[str, Subject]:
    """By name, each brought to its end once in this process, which is warm from then on."""
    made: dict[str, Subject] = {}
    for name in names:
        learned_from = [f"policy.dataset=[{made[RULES].whole}]"] if name == "iql" else []
        config = compose([*_TINY, *_SUBJECTS[name], *learned_from])
        made[name] = Subject(name, config, folder / "whole" / name.replace(" ", "_"))
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            if made[name].begin(made[name].whole):
                raise RuntimeError(f"the undisturbed run of {name} has failed")
    return made


def _record(run: Path) -> dict[str, object]:
    try:
        return dict(json.loads((run / "run.json").read_text()))
    except (OSError, ValueError):
        return {}


def _lines(path: Path) -> list[object]:
    """All lines but for wall times and for the interruptions themselves."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().split("\n")[:-1]:
        line = json.loads(text)
        if line.get("type") != "run_resumed":
            lines.append({key: value for key, value in line.items() if not key.endswith("_s")})
    return lines
