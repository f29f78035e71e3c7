"""Training goes on bit for bit where it stopped, on the shares of text that it was told."""

import pytest
import torch

from esper.errors import CheckpointError
from esper.forge.budget import TrainingBudget
from esper.forge.phase import Interrupted, PhaseContext
from esper.forge.training import LanguageTraining, MixedBatches
from esper.kasmina.decoder import Decoder
from esper.tasks.text.corpus import Corpus, Domain
from esper.tasks.text.tokenizer import get_tokenizer

LENGTH = 16
BUDGET = TrainingBudget(steps=12, batch_size=4, learning_rate=3e-3)


@pytest.fixture(scope="module")
def corpus():
    """Two domains that no token belongs to both of."""
    streams = {
        name: torch.randint(first, first + 8, (400,), generator=torch.Generator().manual_seed(first), dtype=torch.int32)
        for name, first in (("low", 0), ("high", 100))
    }
    return Corpus({n: Domain(n, s, s, s) for n, s in streams.items()}, "of a test", 0.0, get_tokenizer())


def context(stop_after=None):
    steps = []
    return PhaseContext(
        0, None, "bytes", None, log=lambda step, **metrics: steps.append((step, metrics)),
        should_stop=lambda: stop_after is not None and len(steps) >= stop_after,
    ), steps  # fmt: skip


def training(corpus, folder=None, budget=BUDGET, name="trunk"):
    model = Decoder(264, 16, 2, 1, LENGTH, generator=torch.Generator().manual_seed(3))
    batches = MixedBatches(corpus, {"low": 3.0, "high": 1.0}, budget.batch_size, LENGTH, "test", 0)
    return LanguageTraining(model, batches, budget, name, folder)


def test_stopped_and_gone_on_with_it_is_as_if_it_had_not_been(corpus, tmp_path):
    whole = training(corpus).run(context()[0], log_every=1)
    stopping, seen = context(stop_after=5)
    with pytest.raises(Interrupted):
        training(corpus, tmp_path).run(stopping, log_every=1)
    assert len(seen) == 5
    going_on, rest = context()
    resumed = training(corpus, tmp_path).run(going_on, log_every=1)
    assert [step for step, _ in rest] == list(range(6, 13))
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_name_with_a_dot_goes_on_too(corpus, tmp_path):
    stopping, _ = context(stop_after=5)
    with pytest.raises(Interrupted):
        training(corpus, tmp_path, name="specialist_notes.v2").run(stopping, log_every=1)
    assert training(corpus, tmp_path, name="specialist_notes.v2").step == 5


def test_what_is_finished_is_not_trained_again(corpus, tmp_path):
    training(corpus, tmp_path).run(context()[0])
    again, seen = context()
    finished = training(corpus, tmp_path)
    before = {name: tensor.clone() for name, tensor in finished.model.state_dict().items()}
    finished.run(again, log_every=1)
    assert seen == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in finished.model.state_dict().items())


def test_a_checkpoint_of_another_model_is_refused(corpus, tmp_path):
    training(corpus, tmp_path).run(context()[0])
    model = Decoder(264, 32, 2, 1, LENGTH)
    batches = MixedBatches(corpus, {"low": 1.0}, 4, LENGTH, "test", 0)
    with pytest.raises(CheckpointError):
        LanguageTraining(model, batches, BUDGET, "trunk", tmp_path)


def test_windows_come_from_domains_in_their_shares(corpus):
    batches = MixedBatches(corpus, {"low": 3.0, "high": 1.0}, 1000, LENGTH, "test", 0)
    x, y = batches.draw()
    assert x.shape == y.shape == (1000, LENGTH)
    assert torch.equal(x[:, 1:], y[:, :-1])
    is_low = x < 50
    assert torch.equal(is_low.all(1), is_low.any(1))  # no window is of both
    assert 0.70 < is_low.all(1).float().mean() < 0.80


def test_it_learns(corpus):
    budget = TrainingBudget(steps=60, batch_size=8, learning_rate=1e-2)
    told, seen = context()
    training(corpus, budget=budget).run(told, log_every=1)
    losses = [metrics["trunk_loss"] for _, metrics in seen]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
