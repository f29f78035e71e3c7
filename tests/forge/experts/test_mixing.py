"""What candidates are judged by, and which one is taken."""

import pytest
import torch

from esper.errors import CheckpointError
from esper.forge.bundles import load_language_model
from esper.forge.examples import IGNORED
from esper.forge.experts.layers import dense_copy
from esper.forge.experts.mixing import MOST_STEPS, MixtureAims
from esper.forge.experts.nsga2 import Evaluated
from esper.forge.experts.routed import WEIGHT_STEP
from esper.forge.experts.singular_values import SingularValues
from esper.forge.phase import Interrupted
from esper.tasks.task import named_generator


@pytest.fixture
def made(plain, tmp_path):
    scaled = SingularValues(dense_copy(load_language_model(plain).host))
    experts = 0.2 * torch.randn(2, len(scaled.values), generator=named_generator(0, "experts"))
    x = torch.randint(256, (2, 4, 10), generator=named_generator(0, "texts"))
    y = x.roll(-1, 2)
    y[:, :, :3] = IGNORED

    def make(should_stop=lambda: False):
        shares = torch.tensor([3.0, 1.0])
        return MixtureAims(scaled, experts, [0, 1], list(zip(x, y, strict=True)), shares, tmp_path / "m", should_stop)

    return make, scaled, experts, x, y


def point(*steps):
    return torch.tensor([steps], dtype=torch.float64) / MOST_STEPS


def test_the_base_has_loss_one_and_nothing_active(made):
    aims = made[0]()(point(0, 0, 0, 0))[0]
    assert aims.tolist() == [1.0, 0.0, 0.5]


def test_aims_are_loss_active_experts_and_networks(made):
    make, scaled, experts, x, y = made
    aims = make()(point(2, 1, 0, 0))[0]

    def loss(values, text):
        logits = scaled.by(values, x[text])[:, 3:]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), y[text][:, 3:].flatten())

    mixed = WEIGHT_STEP * (2 * experts[0] + experts[1])
    zero = torch.zeros_like(mixed)
    expected = (0.75 * loss(mixed, 0) + 0.25 * loss(zero, 1)) / (0.75 * loss(zero, 0) + 0.25 * loss(zero, 1))
    assert float(aims[0]) == pytest.approx(expected.item(), rel=1e-5)
    assert aims[1:].tolist() == [0.75 * 2 / 2, 1.0]


def test_texts_that_end_before_a_mixture_is_chosen_count_for_nothing(made):
    make, *_, y = made
    y[1] = IGNORED
    assert make()(point(0, 0, 2, 1)).isfinite().all()


def test_the_first_population_has_the_base_and_each_kind_by_its_own(made):
    aims = made[0]()
    first = aims.first_population(8, 0, "x")
    own = round(1 / WEIGHT_STEP)
    assert aims.steps(first[0]).tolist() == [[0, 0], [0, 0]] and aims.steps(first[1]).tolist() == [[own, 0], [0, own]]
    assert len(first) == 8 and first.min() >= 0 and first.max() <= 1


def test_of_the_best_the_one_with_the_fewest_active_is_taken(made):
    aims = made[0]()
    points = torch.cat((point(3, 3, 3, 3), point(2, 0, 0, 0), point(0, 0, 0, 0)))
    found = Evaluated(points, torch.tensor([[0.9, 1.0, 0.5], [0.9003, 0.4, 1.0], [1.0, 0.0, 0.5]]))
    assert aims.choose([found]).tolist() == [[2, 0], [0, 0]]


def test_before_anything_is_chosen_the_mixture_is_used_that_is_best_on_all_text(made):
    aims = made[0]()
    mixtures = torch.tensor([[3, 0], [0, 3]], dtype=torch.uint8)
    found = aims.opening(mixtures).tolist()
    losses = {
        row: float(aims(torch.tensor([[*row, *row]], dtype=torch.float64) / 3)[0, 0])
        for row in ((0, 0), (2, 0), (0, 2), (3, 0), (0, 3))
    }
    assert losses[tuple(found)] == min(losses.values()) and len(set(losses.values())) == 5


def test_losses_are_kept_and_a_search_that_is_stopped_goes_on(made, tmp_path):
    make = made[0]
    points = torch.cat((point(1, 0, 0, 2), point(3, 1, 2, 0)))
    expected = make()(points)
    (tmp_path / "m").unlink(missing_ok=True)
    asked = iter([False] * 4 + [True])
    aims = make(should_stop=lambda: next(asked))
    with pytest.raises(Interrupted):
        aims(points)
    assert (tmp_path / "m").exists()
    again = make()
    assert torch.equal(again(points), expected)
    (tmp_path / "m").write_text("{}")
    with pytest.raises(CheckpointError):
        make()
