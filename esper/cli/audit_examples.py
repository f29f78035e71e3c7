"""Example checkpoints of five kinds, as torch files, and the page that their audits make."""

import tempfile
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from esper.checkpoint.audit import audit_checkpoint, iterative_audit
from esper.checkpoint.convert import write_torch
from esper.errors import CheckpointError
from esper.kasmina import CNNHost, MorphogeneticModel, SlotConfig
from esper.leyline import SeedStage, SeedTelemetry
from esper.simic.ppo.agent import PPOAgent

_SEED = 7
_BLENDING_STEPS = 4
_CONVERSIONS = {
    "`datetime`, `date`, `time`": "ISO 8601 string",
    "`deque`": "list",
    "`Enum`": "int",
    "dataclass": "dict via `to_dict()`",
    "`nn.Module`": "CRITICAL: store state_dict separately",
    "a call of `eval` or `getattr`, or into `os` or `subprocess`": "CRITICAL: runs code when loaded; do not load",
    "namedtuple, `frozenset`, `defaultdict`, NumPy values, objects of any other class": "needs manual inspection",
    "nesting past 20 levels, a container that contains itself": "reported, not followed",
}


class ExampleKind(NamedTuple):
    """One example: its title, its file's name in the temporary folder, and what writes it."""

    title: str
    file_name: str
    write: Callable[[Path], object]


def legacy_checkpoint() -> dict[str, Any]:
    """An agent as it used to be saved: with values that are not plain, so that an audit finds something."""
    generator = torch.Generator().manual_seed(_SEED)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        network = nn.Sequential(nn.Linear(50, 64), nn.Tanh(), nn.Linear(64, 7))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4)
    network(torch.randn(8, 50, generator=generator)).square().mean().backward()
    optimizer.step()
    saved_at = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    return {
        "network_state_dict": network.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "train_steps": 1,
        "config": {"gamma": 0.99, "clip_ratio": 0.2},
        "metadata": {
            "saved_at": saved_at,
            "stage": SeedStage.BLENDING,
            "recent_rewards": deque([0.5, 0.25], maxlen=100),
            "telemetry": SeedTelemetry(seed_id="seed_0", blueprint_id="conv_light", captured_at=saved_at),
        },
    }


def seed_checkpoint(stage: SeedStage) -> dict[str, Any]:
    """A model whose seed lives in this stage, as esper describes it: tensors and plain values only."""
    host = CNNHost(channels=(4, 8, 8), generator=torch.Generator().manual_seed(_SEED))
    model = MorphogeneticModel(host, slots=("mid",), slot_config=SlotConfig(blending_steps=_BLENDING_STEPS))
    slot = model.slots["mid"]
    if stage is not SeedStage.DORMANT:
        _grow(model, stage)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(_SEED))
    model(images).logsumexp(1).sum().backward()
    optimizer.step()
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "seed_states": {name: slot.state and slot.state.to_dict() for name, slot in model.slots.items()},
        "epoch": 3,
        "config": {"host": "cnn", "blending_steps": slot.config.blending_steps},
    }


def _grow(model: MorphogeneticModel, stage: SeedStage) -> None:
    slot = model.slots["mid"]
    state = slot.germinate("conv_light", "seed_0", model.host, "gated", torch.Generator().manual_seed(_SEED))
    if stage in (SeedStage.BLENDING, SeedStage.PROBATIONARY):
        slot.start_blending(_BLENDING_STEPS)
        slot.step(_BLENDING_STEPS // 2)
    if stage is SeedStage.PROBATIONARY:
        slot.step(_BLENDING_STEPS - _BLENDING_STEPS // 2)
    if state.stage is not stage:
        state.stage = stage


def _seed(stage: SeedStage) -> ExampleKind:
    name = stage.name.lower() if stage is not SeedStage.GERMINATED else "morphogenetic"
    return ExampleKind(
        stage.name, f"esper_{name}_checkpoint.pt", lambda path: write_torch(seed_checkpoint(stage), path)
    )


KINDS = {
    "test": ExampleKind("PPO agent", "esper_test_checkpoint.pt", lambda path: PPOAgent(state_dim=50).save(path)),
    "legacy": ExampleKind(
        "Legacy agent",
        "esper_legacy_checkpoint.pt",
        lambda path: write_torch(legacy_checkpoint(), path, must_be_plain=False),
    ),
    "morphogenetic": _seed(SeedStage.GERMINATED),
    "blending": _seed(SeedStage.BLENDING),
    "probationary": _seed(SeedStage.PROBATIONARY),
}


def generate(name: str, folder: Path | None = None) -> Path:
    """Write the example of this kind (a key of KINDS) into a folder, the temporary one by default.

    Raises CheckpointError where it cannot be written.
    """
    try:
        path = (folder or Path(tempfile.gettempdir())) / KINDS[name].file_name
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no folder for temporary files: {error.strerror}. Set TMPDIR.") from error
    KINDS[name].write(path)
    return path


def results_page() -> str:
    """The page docs/checkpoint-audit-results.md: what audits of freshly generated checkpoints say."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: generate(name, Path(folder)) for name in KINDS}
        audits = {KINDS[name].title: audit_checkpoint(path) for name, path in paths.items()}
        unsafe = {KINDS[name].title: iterative_audit(path) for name, path in paths.items()}
    environment = next(iter(audits.values()))["environment"]
    parts = [
        "# What audits of esper's checkpoints say",
        "Written by `esper audit --write-docs docs/checkpoint-audit-results.md` from checkpoints made for it.\n"
        "The PPO agent is what `PPOAgent(state_dim=50).save(path)` writes (`esper audit --generate-test`). The legacy\n"
        "agent (`--generate-legacy`) is saved the old way, with values that are not plain, so that there is something\n"
        "to find. The other three are a `MorphogeneticModel` whose seed is in that stage, as esper describes it.",
        "## Environment",
        "\n".join(f"- {name}: {value}" for name, value in environment.items()),
        "## Results",
        _table(
            ("checkpoint", "`weights_only=True`", "issues"),
            [
                (title, "SUCCESS" if audit["compatible"] else "FAILED", str(len(_issues(audit))))
                for title, audit in audits.items()
            ],
        ),
    ]
    for title, audit in audits.items():
        parts += [f"### {title}", f"`{audit['weights_only']}`"]
        parts += [_bullets(_issues(audit))] if _issues(audit) else []
        parts += [_table(("key", "holds"), [(f"`{key}`", what) for key, what in audit["structure"].items()])]
    parts += [
        "## All unsafe globals",
        "As `esper audit --iterative FILE` lists them: every class and function that the file asks for and that\n"
        "`weights_only=True` refuses, not just the first.",
        _table(("checkpoint", "unsafe globals"), [(title, _codes(names)) for title, names in unsafe.items()]),
        "## What to store instead",
        _table(("value", "store"), list(_CONVERSIONS.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _issues(audit: dict[str, Any]) -> list[str]:
    return [*audit["issues"], *audit["optimizer_issues"]]


def _codes(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- `{path}`: {rest}" for path, _, rest in (line.partition(": ") for line in lines))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
