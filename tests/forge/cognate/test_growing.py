"""A trunk that grows while it trains."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from esper.config.composing import compose
from esper.errors import ConfigError
from esper.forge.budget import TrainingBudget
from esper.forge.cognate.growing import GROWN, grow_trunk, run_overrides
from esper.forge.composing import compose as compose_forge
from esper.forge.config import ForgeConfig
from esper.forge.launch import make_context
from esper.forge.phase import Interrupted, PhaseContext
from esper.tasks.settings import CorpusTaskConfig

BUDGET = TrainingBudget(steps=32, batch_size=8, learning_rate=0.01)
EPOCHS = 8


def configuration(text: Path, *overrides: str) -> ForgeConfig:
    sizes = ["model.n_embd=16", "model.block_size=16", "corpus.train_bytes=6000", "corpus.val_bytes=600"]
    given = ["size=nano", "phase=cognate", "corpus=text", f'corpus.paths=["{text}"]', "corpus.test_bytes=600", *sizes]
    return compose_forge([*given, *overrides])


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "it's a text.txt"
    path.write_text("".join(f"line {line} of a text, and again: {line * line}\n" for line in range(400)))
    return path


@pytest.fixture
def context(text) -> PhaseContext:
    return make_context(configuration(text))


def grow(context: PhaseContext, output: Path):
    return grow_trunk(context, BUDGET, EPOCHS, 8, output)


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """A trunk that was grown in one go, what was logged, its folder, and how far it said it was."""
    logged, told_of = [], []
    context = make_context(configuration(text))
    context.log = lambda step, **metrics: logged.append((step, metrics))
    context.progress = lambda *told: told_of.append(told)
    output = tmp_path_factory.mktemp("whole")
    grown = grow(context, output)
    return grown, logged, output, told_of


@pytest.mark.slow
def test_it_trains_for_as_many_steps_of_the_forges_text_as_an_ungrown_one(context, text):
    config = compose(run_overrides(context, BUDGET, EPOCHS, 8))
    assert isinstance(config.task, CorpusTaskConfig) and config.task.paths == [str(text)]
    assert vars(config.task.corpus_config()) == vars(context.corpus_config)
    assert config.epochs * config.task.epoch_windows == BUDGET.steps * BUDGET.batch_size
    assert (config.batch_size, config.optimizer.learning_rate, config.seed) == (8, 0.01, 0)
    assert (config.engine.members, config.controls, config.slots.names) == (1, [], ["block1", "block2"])
    assert config.checkpoint.every_epochs == 2  # 8 steps


@pytest.mark.slow
def test_what_grew_is_a_plain_part_of_the_trunk_and_is_counted(whole):
    grown, logged, output, _ = whole
    record = json.loads((output / GROWN / "run.json").read_text())
    assert record["status"] == "finished" and dict(grown.seeds) == record["summary"]["seeds"]
    assert grown.seeds["planted"] > 0 and grown.network.growth
    for entry in grown.network.growth:
        assert f"{entry['blueprint']} behind {entry['slot']}" in grown.note()
    assert f"{grown.seeds['planted']} seeds planted, {grown.seeds['fossilized']} fossilised" in grown.note()
    assert [step for step, _ in logged] == [4 * epoch for epoch in range(1, EPOCHS + 1)]
    assert logged[-1][1]["trunk_loss"] < logged[0][1]["trunk_loss"]


def test_it_says_how_far_it_is_in_steps(whole):
    assert whole[3] == [(4 * epoch, BUDGET.steps, "trunk") for epoch in range(EPOCHS + 1)]


@pytest.mark.slow
def test_a_finished_one_is_not_grown_again(whole, context):
    grown, _, output, _ = whole
    before = (output / GROWN / "run.json").read_bytes()
    again = grow(context, output)
    assert (output / GROWN / "run.json").read_bytes() == before
    assert all(torch.equal(a, b) for a, b in zip(again.network.parameters(), grown.network.parameters(), strict=True))


@pytest.mark.slow
def test_stopped_it_says_so_and_goes_on_bit_for_bit(whole, context, tmp_path):
    grown, _, _, _ = whole
    lines = tmp_path / GROWN / "metrics.jsonl"

    def stop() -> None:
        while not lines.exists() or lines.read_bytes().count(b"\n") < 3:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted) as caught:
        grow(context, tmp_path)
    thread.join()
    assert caught.value.signal == signal.SIGTERM
    record = json.loads((tmp_path / GROWN / "run.json").read_text())
    assert record["status"] == "interrupted" and 0 < record["epoch"] < EPOCHS
    again = grow(context, tmp_path)
    assert again.network.growth == grown.network.growth and again.seeds == grown.seeds
    assert all(torch.equal(a, b) for a, b in zip(again.network.parameters(), grown.network.parameters(), strict=True))


def test_where_it_is_to_stop_already_it_does_not_begin(context, tmp_path):
    context.should_stop = lambda: True
    with pytest.raises(Interrupted):
        grow(context, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cognate.trunk=RUN"], r"cognate\.grow=true: has no effect with cognate\.trunk=RUN"),
        (["cognate.grow_epochs=7"], r"cognate\.grow_epochs=7: expected what divides .*steps=250"),
        (["cognate.grow_epochs=0"], r"cognate\.grow_epochs=0"),
    ],
)
def test_what_does_not_go_with_growth_is_refused(text, overrides, said):
    with pytest.raises(ConfigError, match=said) as caught:
        configuration(text, "cognate.grow=true", *overrides)
    assert len(str(caught.value).splitlines()) <= 2
