"""Forge runs of end-to-end tests, and what they are judged by: nothing of the phases themselves."""

import contextlib
import json
import math
import subprocess
import sys

import torch
import torch.nn.functional as F

from esper.forge.__main__ import main
from esper.forge.phase import PhaseContext
from tests.e2e.conftest import ROOT, environment, finished

# Seconds instead of minutes; such models pass no gate, so the gates ask for nothing.
TINY = (
    "size=nano",
    "cognate.trunk_training.steps=24",
    "cognate.specialist_training.steps=12",
    "cognate.checkpoint_every_steps=6",
    "cognate.specialist_share=1.0",
    "corpus.train_bytes=65536",
    "corpus.val_bytes=8192",
    "corpus.test_bytes=8192",
    "evomerge.generations=2",
    "evomerge.search_windows=4",
    "evomerge.selection_windows=8",
    "evomerge.test_windows=8",
    "evomerge.min_bits_below_trunk=-1",
    "evomerge.min_bits_below_soup=-1",
    "quietstar.families=[{name: parity, levels: [3], min_thought_gain: -1}]",
    "quietstar.bake.steps=6",
    "quietstar.bake_rounds=1",
    "quietstar.rl.num_episodes=96",
    "quietstar.rl.batch_size=16",
    "quietstar.rl.validation_frequency=32",
    "quietstar.rl.patience=2",
    "quietstar.validation_problems=8",
    "quietstar.test_problems=16",
    "quietstar.min_thought_accuracy=0",
    "quietstar.min_exact_match_gain=-1",
    "quietstar.min_reward_gain=-1",
    "quietstar.max_text_loss=10",
    "bitnet.epochs=3",
    "bitnet.steps_per_epoch=4",
    "bitnet.min_top1_ratio=0",
    "bitnet.min_likelihood_ratio=0",
    "curriculum.families=[copy, reverse]",
    "curriculum.rounds=3",
    "curriculum.steps_per_round=2",
    "curriculum.concepts=16",
    "curriculum.exam_problems=16",
    "curriculum.min_levels_mastered=0",
    "curriculum.min_forgetting_avoided=-1",
    "curriculum.max_text_ratio=10",
    "baking.teaching.steps=6",
    "baking.baking.steps=6",
    "baking.half_baking.steps=4",
    "baking.checkpoint_every_steps=2",
    "baking.selection_problems=8",
    "baking.test_problems=8",
    "baking.trajectories=16",
    "baking.candidates=2",
    "baking.lesson_rows=8",
    "baking.selection_windows=8",
    "baking.min_baked=0",
    "baking.min_unprompted=0",
    "baking.max_unprompted_before=1",
    "baking.max_text_ratio=10",
    "baking.max_task_loss=1",
    "experts.training.steps=4",
    "experts.max_experts=3",
    "experts.train_windows=32",
    "experts.search_windows=4",
    "experts.selection_windows=8",
    "experts.test_windows=8",
    "experts.generations=1",
    "experts.search_seeds=1",
    "experts.reward.steps=2",
    "experts.test_problems=16",
    "compression.gentle_score=0",
    "compression.tight_score=0",
    "compression.ternary_score=0",
    "compression.calibration_windows=8",
    "compression.codecs=[group]",
)


def start(folder, *arguments):
    """`python -m esper.forge` in a process of its own, not waited for."""
    command = [sys.executable, "-m", "esper.forge", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def forge(folder, *arguments):
    """The same to its end, in this process, which has torch loaded already."""
    with contextlib.chdir(folder):
        return finished(main, arguments)


def result(run, phase):
    """What phase.json says came of a phase."""
    (path,) = run.glob(f"*{phase}/phase.json")
    return json.loads(path.read_text())


def logged(run, name):
    """Steps and values under which a metric was logged."""
    records = [json.loads(line) for line in (run / "learning.jsonl").read_text().splitlines()]
    return [(record["step"], record[name]) for record in records if name in record]


def corpus_of(run):
    """The text of a run, read anew by its configuration."""
    from esper.forge.composing import read_config

    config = read_config(run / "config.yaml")
    context = PhaseContext(config.seed, config.model, config.tokenizer, config.corpus)
    return context.corpus, config.model.block_size


def bits_per_byte(model, stream, length):
    """By a loop as plain as can be: every window, one at a time, shifted by one."""
    nats, count = 0.0, 0
    with torch.no_grad():
        for first in range(0, len(stream) - length, length):
            window = stream[first : first + length + 1].long()
            logits = model(window[None, :-1])[0]
            nats += float(F.cross_entropy(logits, window[1:], reduction="sum"))
            count += length
    return nats / math.log(2) / count


__all__ = ["ROOT", "TINY", "bits_per_byte", "corpus_of", "forge", "logged", "result", "start"]
