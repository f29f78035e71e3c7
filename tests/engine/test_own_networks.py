"""Networks of a user's own in a run: what they keep, what is refused, what would crash or mislead."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import esper
from esper.engine.backends.proof import check_resumable
from esper.engine.choice import choose_engine
from esper.engine.governor import Governor, GovernorConfig
from esper.engine.growth import Growth
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import CheckpointError, EngineError
from esper.kasmina.slot import QualityGates
from esper.leyline import WAIT, Action, Operation
from esper.tasks.task import Task
from tests.engine import plain_networks
from tests.engine.growing import data, stepped
from tests.engine.plain_networks import Base, CountingBuffer, Counts, ExtraState, History, build, conv

PLANT = Action(Operation.GERMINATE, "mid", "norm", "linear", "test")
ADVANCE = Action(Operation.ADVANCE, "mid", reason="test")


def growth(kind, members=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(70, 2, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(5, (70,), generator=generator)
    torch.manual_seed(0)
    models = [esper.grow(kind().double(), {"mid": "body"}, x[:2]) for _ in range(members)]
    return Growth(
        Population(models, OptimizerConfig(learning_rate=0.02), "sequential"),
        Task("toy", "cnn", 5, (2, 8, 8), x[:40], y[:40], x[40:60], y[40:60], x[60:], y[60:]),
        QualityGates(),
        Governor(GovernorConfig(snapshot_every_epochs=1)),
        grown=2,
        epochs=9,
        batch_size=16,
        blueprints=["norm"],
        seed=3,
    )


class Scheduled(Base):
    """Python values of many kinds, which decide what it computes."""

    def __init__(self):
        super().__init__()
        self.calls, self.ratio, self.pair, self.last = 0, float("nan"), (1, 2.0), None
        self.weights = torch.ones(3)

    def features(self, x):
        if self.training:
            self.calls += 1
            self.pair = (self.pair[1], self.pair[0] + 1.0)
            self.ratio, self.last = (float("inf") if self.calls % 2 else 0.5), {3: [self.calls], "x": b"y"}
            self.weights = self.weights * 0.9
        return super().features(x) * self.weights.sum() / self.pair[0]


def script(index):
    return [PLANT if index == 0 else ADVANCE if index == 2 else WAIT] * 2 + [WAIT]


@pytest.mark.parametrize(
    "kind", [Counts, History, CountingBuffer, ExtraState, Scheduled, plain_networks.ReplacedBuffer]
)
def test_what_a_network_keeps_in_python_is_kept(kind):
    whole = growth(kind)
    for index in range(3):
        stepped(whole, script(index))
    tensors, plain = whole.state()
    kept = {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(plain, allow_nan=False))
    resumed = growth(kind)
    resumed.load_state(*kept)
    for index in range(3, 6):
        one, other = (stepped(grown, script(index))[0] for grown in (whole, resumed))
        assert [report.train_loss for report in one] == [report.train_loss for report in other]
        assert [report.val_loss for report in one] == [report.val_loss for report in other]


@pytest.mark.parametrize("kind", [Counts, CountingBuffer])
def test_a_grown_network_and_its_twin_count_the_same_passes(kind):
    grown = growth(kind)
    for index in range(4):
        reports, _ = stepped(grown, script(index))
        if index == 1:
            for model in grown.population.models[:2]:
                model.slots["mid"].start_blending(total_steps=100)
    assert any(slot.contribution is not None for slot in reports[0].slots.values())  # its seed was left out once
    counts = [int(model.host.module.calls) for model in grown.population.models]
    assert counts[0] == counts[2] > 0


def test_a_rollback_puts_back_what_a_network_keeps():
    grown = growth(Counts)
    stepped(grown, [WAIT] * 3)
    before = grown.population.models[0].host.module.calls
    with torch.no_grad():
        grown.population.models[0].host.module.head.weight.fill_(float("nan"))
    stepped(grown, [WAIT] * 3)
    after = [model.host.module.calls for model in grown.population.models]
    passes = grown.population.models[1].host.module.calls - before  # of an epoch and its validations
    assert before < after[0] < before + passes == after[1]


class Stateful(Base):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator()

    def features(self, x):
        return super().features(x) * torch.rand((), generator=self.generator, dtype=x.dtype)


class OddTensor(Base):
    """Keeps a tensor of a dtype that no checkpoint has."""

    def __init__(self):
        super().__init__()
        self.phase = torch.zeros((), dtype=torch.complex128)

    def features(self, x):
        self.phase = self.phase + 1.0
        return super().features(x)


class ExtraObject(Base):
    def get_extra_state(self):
        return object()

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (Stateful, "generator"),
        (plain_networks.OwnGenerator, "generator"),
        (ExtraObject, "extra_state"),
        (OddTensor, "phase"),
        (plain_networks.Complex, "spectrum is torch.complex128"),
    ],
)
def test_what_no_checkpoint_can_hold_is_refused_at_the_start(kind, named):
    x, y, _ = data(size=8)
    with pytest.raises(EngineError, match=named):
        check_resumable(esper.grow(kind().double(), {"mid": "body"}, x[:2]), x[:8], y[:8])


class LateHook(Base):
    def features(self, x):
        if self.training and not self.stem._forward_hooks:
            self.stem.register_forward_hook(lambda *_: None)
        return super().features(x)


class LateBuffer(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", None)

    def features(self, x):
        x = super().features(x)
        if self.training and self.mean is None:
            self.mean = x.detach().mean()
        return x


@pytest.mark.parametrize("kind", [LateHook, LateBuffer, plain_networks.GrowingObserver])
def test_a_network_that_is_not_made_of_the_same_any_more_is_refused_at_the_start(kind):
    x, y, _ = data(size=8)
    with pytest.raises(CheckpointError, match="came or went as it ran"):
        check_resumable(esper.grow(kind().double(), {"mid": "body"}, x[:2]), x[:8], y[:8])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, y, order: (x, y, order, 0), "batch_size=0"),
        (lambda x, y, order: (x, y, order[:0], 4), "0 examples"),
        (lambda x, y, order: (x, y, order + 1, 4), "order: expected whole numbers from 0 to 36"),
        (lambda x, y, order: (x, y, order.double(), 4), "order: expected whole numbers"),
        (lambda x, y, order: (x, y - 101, order, 4), "targets: expected the numbers of classes"),
    ],
)
def test_what_no_epoch_can_be_made_of_is_answered_in_a_line(change, reason):
    x, y, order = data(size=8)
    population = Population([esper.grow(build("plain", 0), {"mid": "body"}, x[:2])], OptimizerConfig())
    with pytest.raises(EngineError, match=reason):
        population.train_epoch(*change(x, y, order))


class Detaches(Base):
    def forward(self, x):
        return super().forward(x).detach()


def test_a_network_whose_weights_no_gradient_reaches_is_refused_as_plain_pytorch_does():
    x, y, order = data(size=8)
    for kind in ("sequential", None):
        population = Population([esper.grow(Detaches().double(), {"mid": "body"}, x[:2])], OptimizerConfig(), kind)
        with pytest.raises(EngineError, match="no gradient reaches any weight"):
            population.train_epoch(x, y, order, 16)


def test_frozen_hosts_grow_in_a_run():
    grown = growth(plain_networks.Base)
    for model in grown.population.models:
        model.host.module.requires_grad_(False)
    before = [parameter.clone() for parameter in grown.population.models[2].parameters()]
    for index in range(3):
        reports, _ = stepped(grown, script(index))
    assert all(torch.equal(was, now) for was, now in zip(before, grown.population.models[2].parameters(), strict=True))
    assert reports[0].slots["mid"].gradient_norm > 0 and reports[0].train_loss != reports[2].train_loss


def test_growing_and_choosing_leave_the_network_and_every_stream_alone():
    x, y, _ = data(size=8)
    network = Counts().double()
    before = copy.deepcopy(network.state_dict())
    model = esper.grow(network, {"mid": "body"}, x[:2])
    model.flops_per_sample((2, 8, 8))
    choose_engine([model], OptimizerConfig(), x[:8], y[:8], threads=1)
    assert network.calls == model.host.module.calls == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_networks_of_low_precision_move_and_their_losses_are_summed_finely(dtype, name):
    torch.manual_seed(0)
    network = Base(conv(), nn.ReLU()).to(dtype)
    x, y, order = data(count=640, size=8, dtype=dtype)
    model = esper.grow(network, {"mid": "body"}, x[:2])
    population = Population([model], OptimizerConfig(name=name, learning_rate=0.01, weight_decay=0.01))
    before = {n: p.detach().clone() for n, p in model.host.module.named_parameters()}
    scores = population.train_epoch(x, y, order, 16)
    assert all(not torch.equal(before[n], p) for n, p in model.host.module.named_parameters())
    assert scores.loss.dtype == torch.float32
    evaluated = population.evaluate(x, y)[0].loss.item()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.eval()(x).float(), y).item()
    assert evaluated == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", ["fused", "sequential", None])
@pytest.mark.parametrize("count", [33, 32])
@pytest.mark.parametrize("network", ["image norm", "vector norm", "none"])
def test_a_last_minibatch_of_one_example_is_answered_alike_by_every_engine(network, count, kind):
    head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5)) if network == "vector norm" else nn.Linear(4, 5)
    body = () if network == "image norm" else (conv(), nn.ReLU())
    x, y, order = data(count=count, size=8)
    model = esper.grow(Base(*body, head=head).double(), {"mid": "body"}, x[:2])
    if network == "vector norm" and kind == "fused":
        pytest.skip("there is no fused batch norm of vectors")
    population = Population([model], OptimizerConfig(), kind)
    if network == "vector norm" and count == 33:
        with pytest.raises(EngineError, match="batch_size=16: 33 examples leave a minibatch of one"):
            population.train_epoch(x, y, order, 16)
    else:
        assert population.train_epoch(x, y, order, 16).loss.isfinite().all()


CRASH = """
import torch
from torch import nn
import esper
from esper.engine.optimizer import OptimizerConfig
from esper.engine.choice import choose_engine
torch.manual_seed(0)
layers = [nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
x, y = torch.randn(64, 1, 16, 16), torch.arange(64) % 3
models = [esper.grow(nn.Sequential(*layers, nn.Linear(8, 3)), {"mid": "0"}, x[:2]) for _ in range(2)]
for kind in ("auto", "sequential"):
    population, _ = choose_engine(models, OptimizerConfig(), x, y, kind=kind)
    for _ in range(5):
        population.train_epoch(x, y, torch.arange(64), 16)
print("survived")
"""


def test_a_strided_convolution_does_not_crash_the_interpreter():
    ran = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, env=os.environ, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, "survived"), ran.stderr[-500:]


def test_channels_last_is_refused_where_it_is_not_sound():
    x, y, _ = data(size=8)
    model = esper.grow(build("strided", 0), {"mid": "body"}, x[:2])
    with pytest.raises(EngineError, match="channels_last is not sound"):
        choose_engine([model], OptimizerConfig(), x[:8], y[:8], kind="sequential", memory_format="channels_last")


class Fails(Base):
    def features(self, x):
        return super().features(x).view(3, -1)


class Wide(Base):
    def forward(self, x):
        return self.features(x)


@pytest.mark.parametrize("kind", ["fused", "sequential", None])
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Wide, r"the network gives \[8, 4, 8, 8\] for targets \[8\]"),
        (lambda: Base(nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)), None),
    ],
)
def test_a_network_whose_own_step_fails_is_answered_in_a_line(network, reason, kind):
    x, y, order = data(size=8)
    model = esper.grow(network().double(), {"mid": "stem"}, x[:2])
    population = Population([model], OptimizerConfig(), kind)
    if reason is None:
        assert population.train_epoch(x, y, order, 16).loss.isfinite().all()
        return
    with pytest.raises(EngineError, match=reason) as refused:
        population.train_epoch(x[:8], y[:8], order[:8] % 8, 8)
    assert len(str(refused.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a, b: setattr(b.body[1], "eps", 0.1), "layer body.1 of member 1"),
        (lambda a, b: b.body[0].weight.requires_grad_(False), "layer body.0 of member 1"),
        (lambda a, b: setattr(b.body, "2", nn.Tanh()), "layer body.2 of member 1"),
    ],
)
def test_members_that_differ_train_one_by_one(change, reason):
    x, y, order = data(size=8)
    one, other = build("plain", 0), build("plain", 1)
    change(one, other)
    models = [esper.grow(each, {"mid": "body"}, x[:2]) for each in (one, other)]
    with pytest.raises(EngineError, match=reason):
        Population(models, OptimizerConfig(), "fused")
    population = Population(models, OptimizerConfig())
    population.train_epoch(x, y, order, 16)
    assert population.engine.kind == "sequential"


def test_members_that_are_one_network_or_share_parts_are_refused():
    x, _, _ = data(size=8)
    model, other = (esper.grow(build("plain", 0), {"mid": "body"}, x[:2]) for _ in range(2))
    with pytest.raises(EngineError, match="members 0 and 1 share"):
        Population([model, model], OptimizerConfig())
    other.host.module.stem = model.host.module.stem
    with pytest.raises(EngineError, match=r"members 0 and 1 share module.stem"):
        Population([model, other], OptimizerConfig())
    wide = esper.grow(build("strided", 0), {"mid": "body"}, x[:2])
    with pytest.raises(EngineError, match="all members of a population have one architecture"):
        Population([esper.grow(build("plain", 0), {"mid": "body"}, x[:2]), wide], OptimizerConfig())


CHANGES = {
    "hook": lambda net: net.stem.register_forward_hook(lambda *_: None),
    "backward hook": lambda net: net.stem.register_full_backward_hook(lambda *_: None),
    "parameter hook": lambda net: net.stem.weight.register_hook(lambda grad: grad),
    "attribute": lambda net: setattr(net, "scale", 2.0) or setattr(net, "pool", nn.AdaptiveMaxPool2d(1)),
    "setting": lambda net: setattr(net.body[1], "eps", 0.1),
    "parameter": lambda net: setattr(net.stem, "weight", nn.Parameter(net.stem.weight.detach().clone())),
    "dtype": lambda net: net.float(),
}


@pytest.mark.parametrize("member", [0, 1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_put_on_a_network_later_stops_the_fused_engine(change, member):
    x, y, order = data(size=8)
    models = [esper.grow(build("plain", seed), {"mid": "body"}, x[:2]) for seed in range(3)]
    population = Population(models, OptimizerConfig(), "fused")
    population.train_epoch(x, y, order, 16)
    CHANGES[change](models[member].host.module)
    with pytest.raises(EngineError, match=r"changed since its population was made|the network (replaces|makes) it"):
        population.train_epoch(x, y, order, 16)


@pytest.mark.parametrize("member", [0, 1, 2])
def test_a_hook_on_any_member_is_seen_before_fusing(member):
    x, y, order = data(size=8)
    models = [esper.grow(build("plain", seed), {"mid": "body"}, x[:2]) for seed in range(3)]
    models[member].host.module.stem.weight.register_hook(lambda grad: grad * 0.0)
    with pytest.raises(EngineError, match=r"layer stem\.weight: has a hook"):
        Population(models, OptimizerConfig(), "fused")
    before = [model.host.module.stem.weight.clone() for model in models]
    Population(models, OptimizerConfig()).train_epoch(x, y, order, 16)
    stood_still = [torch.equal(was, model.host.module.stem.weight) for was, model in zip(before, models, strict=True)]
    assert stood_still == [each == member for each in range(3)]


def test_weights_that_are_loaded_between_epochs_are_trained_on():
    x, y, order = data(size=8)
    for kind in ("fused", "sequential"):
        model, other = (esper.grow(build("plain", seed), {"mid": "body"}, x[:2]) for seed in (0, 1))
        population = Population([model], OptimizerConfig(), kind)
        population.train_epoch(x, y, order, 16)
        model.host.module.load_state_dict({n: t.clone() for n, t in other.host.module.state_dict().items()})
        with torch.no_grad():
            model.host.module.head.weight.data = torch.zeros_like(model.host.module.head.weight)
        loss = population.evaluate(x, y)[0].loss
        torch.testing.assert_close(loss[0], nn.functional.cross_entropy(model.eval()(x), y))


def test_a_layer_that_is_frozen_later_stands_still_from_then_on():
    x, y, order = data(size=8)
    for kind in ("fused", "sequential"):
        model = esper.grow(build("plain", 0), {"mid": "body"}, x[:2])
        population = Population([model], OptimizerConfig(weight_decay=0.1), kind)
        population.train_epoch(x, y, order, 16)
        model.host.module.stem.requires_grad_(False)
        before = model.host.module.stem.weight.clone()
        population.train_epoch(x, y, order, 16)
        assert torch.equal(before, model.host.module.stem.weight), kind
        model.host.module.stem.requires_grad_(True)
        population.train_epoch(x, y, order, 16)
        assert not torch.equal(before, model.host.module.stem.weight), kind


def test_a_network_that_is_frozen_whole_trains_its_seeds_alone():
    x, y, order = data(size=8)
    for kind in ("fused", "sequential", None):
        model = esper.grow(build("plain", 0).requires_grad_(False), {"mid": "body"}, x[:2])
        population = Population([model], OptimizerConfig(weight_decay=0.1), kind)
        before = {name: p.clone() for name, p in model.host.named_parameters()}
        population.train_epoch(x, y, order, 16)
        assert all(torch.equal(before[name], p) for name, p in model.host.named_parameters())
        model.germinate_seed("norm", "s", "mid", "linear")
        model.slots["mid"].begin_training(QualityGates())
        model.slots["mid"].start_blending(total_steps=4)
        for _ in range(2):
            population.train_epoch(x, y, order, 16)
        assert all(torch.equal(before[name], p) for name, p in model.host.named_parameters() if "seed" not in name)
        assert any(parameter.abs().max() > 0 for parameter in model.get_seed_parameters())
