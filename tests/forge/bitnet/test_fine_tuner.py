"""Fine-tuning: what it reaches, what it keeps, and that it goes on where it stopped."""

import copy
import math
import time

import pytest
import torch
import torch.nn.functional as F

from esper.errors import CheckpointError, DivergedError
from esper.forge.bitnet import FineTuner
from esper.forge.bitnet.distillation import distillation_loss
from esper.forge.bitnet.quantizer import quantize_layers, quantized_layers
from esper.forge.phase import Interrupted
from tests.forge.bitnet.networks import Counting, TinyDecoder, config, tokens


def validate(network) -> float:
    with torch.no_grad():
        x, y = Counting(seed=1).draw()
        return F.cross_entropy(network(x).flatten(0, 1), y.flatten()).item()


@pytest.fixture(scope="module")
def teacher():
    network, batches = TinyDecoder(), Counting(seed=2)
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    for _ in range(150):
        x, y = batches.draw()
        optimizer.zero_grad()
        F.cross_entropy(network(x).flatten(0, 1), y.flatten()).backward()
        optimizer.step()
    return network.eval()


def tuner(teacher, folder=None, changed=None, **settings) -> FineTuner:
    student = quantize_layers(copy.deepcopy(teacher))
    return FineTuner(
        student, teacher, Counting(), validate, config(**(changed or {})), checkpoint_dir=folder, **settings
    )


def test_losses_are_those_by_hand():
    logits, wanted = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[math.log(3.0), 0.0]]])
    loss, cross_entropy, divergence = distillation_loss(logits, wanted, torch.tensor([[1]]), 0.25)
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert cross_entropy.item() == pytest.approx(math.log(2)) and divergence.item() == pytest.approx(by_hand)
    assert loss.item() == pytest.approx(0.75 * math.log(2) + 0.25 * by_hand)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("changed", [{}, {"optimizer": "muon"}, {"grokfast": True}, {"even_gradients": True}])
def test_training_wins_back_what_quantising_lost(teacher, changed):
    before = validate(quantize_layers(copy.deepcopy(teacher)).eval())
    tuned = tuner(teacher, changed=changed)
    untouched = copy.deepcopy(teacher.state_dict())
    found = tuned.train()
    after = validate(tuned.model)
    assert before - after > 0.1
    assert found["steps"] == 40 and found["epochs"] == tuned.current_epoch == 4
    assert math.exp(after) == pytest.approx(tuned.best_perplexity)
    assert all(torch.equal(value, untouched[name]) for name, value in teacher.state_dict().items())
    history = tuned.training_history
    assert len(history) == 4 and history[0]["strength"] == 1.0 and history[-1]["gradient_spread"] >= 1
    assert tuned.gradient_norms.keys() == {name for name, _ in quantized_layers(tuned.model)}


def test_the_quantiser_comes_in_over_the_first_share(teacher):
    tuned = tuner(teacher, changed={"epochs": 8, "steps_per_epoch": 5, "quantize_share": 0.5})
    tuned.train()
    strengths = [epoch["strength"] for epoch in tuned.training_history]
    assert strengths == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0])
    whole = [epoch["perplexity"] for epoch in tuned.training_history[3:]]
    assert tuned.best_perplexity == min(whole)


class Stop:
    """Asks for a stop at the given step of those that it is asked at."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("stop_at", [7, 10, 23])
@pytest.mark.parametrize("changed", [{}, {"optimizer": "muon", "grokfast": True}])
def test_what_was_interrupted_ends_bit_for_bit_where_it_would_have(teacher, tmp_path, changed, stop_at):
    straight = tuner(teacher, changed=changed)
    straight.train()
    first = tuner(teacher, tmp_path, changed)
    with pytest.raises(Interrupted):
        first.train(should_stop=Stop(stop_at))
    second = tuner(teacher, tmp_path, changed)
    assert second.resume()
    second.train()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    assert second.training_history == straight.training_history
    assert second.best_perplexity == straight.best_perplexity
    assert second.gradient_norms == straight.gradient_norms


def test_a_finished_training_is_not_trained_again(teacher, tmp_path):
    first = tuner(teacher, tmp_path)
    found = first.train()
    second = tuner(teacher, tmp_path)
    assert second.resume() and second.train() == found
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


def test_checkpoints_are_kept_every_so_many_epochs(teacher, tmp_path):
    tuned = tuner(teacher, tmp_path, save_every_n_epochs=3)
    kept = []
    tuned.train(log=lambda step, **figures: kept.append((tmp_path / "fine_tuning.json").exists()))
    assert kept == [False, False, False, True]  # told of an epoch before it is saved
    assert not tuner(teacher).resume() and not tuner(teacher, tmp_path / "empty").resume()


def test_the_best_weights_are_a_copy(teacher):
    tuned = tuner(teacher, changed={"quantize_share": 0.0, "epochs": 2})
    worsen = iter([1.0, 2.0])
    seen = []

    def worse(network) -> float:
        seen.append([parameter.detach().clone() for parameter in network.parameters()])
        return next(worsen)

    tuned._validate = worse
    tuned.train()
    assert tuned.best_perplexity == pytest.approx(math.e)
    for parameter, first, last in zip(tuned.model.parameters(), *seen, strict=True):
        assert torch.equal(parameter, first) and not torch.equal(first, last)


def test_a_checkpoint_of_something_else_is_refused(teacher, tmp_path):
    tuner(teacher, tmp_path).train()
    wider = FineTuner(quantize_layers(TinyDecoder(8)), teacher, Counting(), validate, config())
    with pytest.raises(CheckpointError, match="holds what is no state of this run"):
        wider.load_checkpoint(tmp_path / "fine_tuning")


def test_a_loss_that_is_no_number_ends_it(teacher):
    tuned = tuner(teacher)
    with torch.no_grad():
        tuned.model.embedding.weight[0] = float("nan")
    with pytest.raises(DivergedError, match="the loss is nan"):
        tuned.train()


def test_whether_training_is_worth_it_follows_from_what_was_lost(teacher):
    asked = tuner(teacher).should_fine_tune
    assert asked(10.0, 11.0) and not asked(10.0, 10.05) and not asked(10.0, 9.0) and asked(10.0, float("nan"))


def test_a_plain_network_trains_by_the_same_steps(teacher):
    """The control: the same budget without the quantiser."""
    control = FineTuner(copy.deepcopy(teacher), teacher, Counting(), validate, config())
    control.train()
    assert validate(control.model) < validate(teacher) + 0.05 and not control.gradient_norms
    assert control.model(tokens()).shape == (4, 8, 12)


@pytest.mark.slow
def test_epochs_are_logged_to_wandb(teacher, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tuner(teacher, tmp_path, {"epochs": 2, "steps_per_epoch": 2}, wandb_enabled=True).train()
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 30  # a process of W&B's writes it, and may still be about to
    while b"bitnet/perplexity" not in log.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
