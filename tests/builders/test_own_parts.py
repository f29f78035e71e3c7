"""Parts of a user's own as a run gets them: blueprints in slots, hosts, rewards, controllers."""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from esper.builders.own_controller import OwnController
from esper.builders.population import plantable
from esper.config.composing import compose
from esper.errors import BlueprintError, ConfigError
from esper.kasmina import BlueprintRegistry, CNNHost, MorphogeneticModel
from esper.kasmina.features import children_with_features
from esper.leyline import WAIT, EpochReport
from esper.simic.rewards.config import REWARDS, RewardConfig
from esper.simic.rewards.functions import build_reward


class Beside(nn.Module):
    """x + branch(x) - branch'(x): the identity while both branches are alike."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.one, self.other = branch, copy.deepcopy(branch)

    def forward(self, x):
        return x + self.one(x) - self.other(x)


@pytest.fixture
def own(monkeypatch):
    copies = {topology: dict(specs) for topology, specs in BlueprintRegistry._specs.items()}
    monkeypatch.setattr(BlueprintRegistry, "_specs", copies)
    return BlueprintRegistry.register


def model():
    return MorphogeneticModel(CNNHost(in_channels=4, channels=[4, 4, 4]), slots=["early", "late"])


def test_a_blueprint_gets_what_it_names_and_no_more(own):
    given = {}

    @own("tailored", "cnn")
    def tailored(dim, upstream, max_ratio):
        given[dim] = (upstream, max_ratio)
        return Beside(nn.Conv2d(dim, dim, 1))

    grown = model()
    grown.germinate_seed("tailored", "s", "late")
    assert given[4] == (grown.host.blocks[2], grown.slots["late"].config.max_ratio)
    resumed = model()
    resumed.load_state_dict(grown.state_dict())
    assert given[4][0] is resumed.host.blocks[2]
    assert torch.equal(resumed.slots["late"].seed.one.weight, grown.slots["late"].seed.one.weight)
    assert not [name for name in grown.state_dict() if "upstream" in name]


def test_a_blueprints_size_is_counted_at_the_width_that_others_are_stated_at(own):
    own("plain", "cnn")(lambda dim: Beside(nn.Conv2d(dim, dim, 1, bias=False)))
    own("stated", "cnn", param_estimate=7)(lambda dim: Beside(nn.Conv2d(dim, dim, 1)))
    own("above", "cnn")(lambda dim, upstream: Beside(nn.Conv2d(dim, dim, 1, bias=False)))
    named = compose(["blueprint.names=[plain,stated,above,norm]"])
    found = dict(plantable(named, "cnn", list(model().slots.values())))
    assert found == {"stated": 7, "above": 2 * 16, "norm": 128, "plain": 2 * 64 * 64}
    everything = dict(plantable(compose(), "cnn", list(model().slots.values())))
    assert not everything.keys() & {"plain", "stated", "above"}  # which no plugin of this run has brought


def test_a_host_that_does_not_say_what_is_before_its_slots_takes_no_such_blueprint(own, monkeypatch):
    own("above", "cnn")(lambda dim, upstream: Beside(upstream))
    monkeypatch.setattr(CNNHost, "upstream", lambda self, position: ())
    with pytest.raises(BlueprintError, match="'above' asks for upstream, and this host does not say"):
        model().germinate_seed("above", "s", "late")


class Staged(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3)
        self.stages = nn.ModuleList([nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)])
        self.unused = nn.Conv2d(2, 2, 1)
        self.twice = nn.ReLU()
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        x = self.twice(self.stem(x))
        for stage in self.stages:
            x = self.twice(stage(x))
        return self.head(x.mean((2, 3)))


def test_slots_stand_behind_the_children_that_make_features():
    x = torch.zeros(1, 1, 8, 8)
    assert children_with_features(Staged(), x, "host=mine") == ["stem", "stages.0", "stages.1"]
    dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))
    assert children_with_features(dense, x, "host=mine") == ["1", "2"]
    with pytest.raises(ConfigError, match="host=mine: none of its layers takes a seed"):
        children_with_features(nn.Sequential(nn.Flatten(0)), x, "host=mine")


def report(epoch):
    counts = {"parameter_count": 1, "flops_per_sample": 1, "max_epochs": 4, "best_val_accuracy": 0.0}
    return EpochReport(
        member=0, epoch=epoch, train_loss=0.0, train_accuracy=0.0, val_loss=0.0, val_accuracy=0.0, **counts
    )


@dataclass(kw_only=True)
class MineConfig(RewardConfig):
    name: str = "mine"


@pytest.mark.parametrize(
    ("worth", "expected"),
    [
        (lambda: 1, 1.0),
        (lambda: math.nan, "reward=mine at epoch 2=nan: expected a"),
        (lambda: 1 / 0, "failed in"),
    ],
)
def test_a_reward_of_ones_own_gives_a_number_or_says_why_not(monkeypatch, worth, expected):
    monkeypatch.setattr(REWARDS, "parts", dict(REWARDS.parts))
    REWARDS.register("mine", MineConfig)(lambda config: lambda before, after: worth())
    reports = report(1), report(2)
    reward = build_reward(MineConfig())
    if isinstance(expected, float):
        assert reward(*reports) == expected
        return
    with pytest.raises(ConfigError, match=expected):
        reward(*reports)


class Gives:
    def __init__(self, actions):
        self.actions = actions

    def act(self, reports):
        return self.actions

    def state_dict(self):
        return self.actions

    def load_state_dict(self, state):
        raise KeyError(state)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([WAIT, WAIT], "policy=mine: act gave 2 actions for 1 reports"),
        (["wait"], "policy=mine: act gave a list of str; expected a list of esper.leyline.Action"),
        (None, "policy=mine: act gave a NoneType; expected a list of esper.leyline.Action"),
    ],
)
def test_what_a_controller_of_ones_own_gives_is_checked(given, said):
    controller = OwnController("mine", Gives(given))
    with pytest.raises(ConfigError, match=said):
        controller.act([report(1)])
    with pytest.raises(ConfigError, match="policy=mine: state_dict gave"):
        controller.state_dict()
    with pytest.raises(ConfigError, match=r"policy=mine failed in \S+, line \d+: KeyError"):
        controller.load_state_dict({})
