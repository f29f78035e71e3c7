"""Networks of a user's own in a run: what they keep, what is refused, what would crash or mislead."""

import copy
import json
import os
import subprocess
import sys
import types
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

import esper
from esper.checkpoint.layout import DTYPE_NAMES
from esper.engine import population as engine_population
from esper.engine.backends.base import Way
from esper.engine.backends.proof import Trial, check_resumable, difference
from esper.engine.choice import choose_engine
from esper.engine.governor import Governor, GovernorConfig
from esper.engine.growth import Growth
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import CheckpointError, EngineError
from esper.kasmina.python_state import changes, read_state, write_state
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
        Task("toy", 5, (2, 8, 8), x[:40], y[:40], x[40:60], y[40:60], x[60:], y[60:]),
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


class Thaws(Base):
    """Begins to train a layer, once."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.stem.requires_grad_(False)

    def features(self, x):
        self.calls += self.training
        if self.training and self.calls == 5:
            self.stem.requires_grad_(True)
        return super().features(x)


def script(index):
    return [PLANT if index == 0 else ADVANCE if index == 2 else WAIT] * 2 + [WAIT]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "kind", [Counts, History, CountingBuffer, ExtraState, Scheduled, Thaws, plain_networks.ReplacedBuffer]
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


VALUES = {
    "a list": (lambda: [1, [2]], lambda value: value[1].append(3)),
    "a dictionary": (lambda: {"a": [1]}, lambda value: value["a"].append(2)),
    "a queue": (lambda: deque([1, 2], maxlen=2), lambda value: value.append(3)),
    "a set": (lambda: {1}, lambda value: value.add(2)),
    "a tensor": (lambda: torch.zeros(2), lambda value: value.add_(1.0)),
    "an array": (lambda: np.zeros(2), lambda value: value.fill(1.0)),
    "not a number": (lambda: [float("nan")], lambda value: value.append(1.0)),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_was_kept_is_put_back_again_and_again(name):
    make, change = VALUES[name]
    network = Base()
    network.value = make()
    kept = read_state(network)
    network.value = make()
    assert not changes(network, kept)
    for _ in range(2):
        change(network.value)
        network.late = 1
        assert changes(network, kept).keys() == {"value", "late"}
        write_state(network, {}, kept)
        assert repr(network.value) == repr(make()) and not hasattr(network, "late")


class Notes(Base):
    """Gives out its notes, and takes them over, as they are."""

    def __init__(self):
        super().__init__()
        self.inner = types.SimpleNamespace(notes={"seen": []})

    def get_extra_state(self):
        return self.inner.notes

    def set_extra_state(self, state):
        self.inner.notes = state


def test_extra_state_is_put_back_again_and_again():
    network = Notes()
    kept = read_state(network)
    for _ in range(2):
        network.inner.notes["seen"].append(1)
        write_state(network, {}, kept)
        assert network.inner.notes == {"seen": []}


def test_another_name_for_a_buffer_is_no_state_and_stays_one():
    network = Base()
    network.mean = [network.body[1].running_mean]
    kept = read_state(network)
    network.mean[0].add_(1.0)
    write_state(network, {}, kept)
    assert "mean" not in kept and network.mean[0] is network.body[1].running_mean and network.mean[0].all()


INTEGERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", [*INTEGERS, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_each_dtype_that_a_checkpoint_holds_are_kept(dtype):
    network = Base()
    network.value = torch.ones(2, dtype=dtype)
    assert "value" in read_state(network) and dtype in DTYPE_NAMES
    x, y, _ = data(size=8)
    check_resumable(esper.grow(Holds(torch.ones(2, dtype=dtype)), {"mid": "body"}, x[:2].float()), x.float(), y)


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


class DrawsToTell(Base):
    """Draws in evaluation alone."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator()

    def features(self, x):
        x = super().features(x)
        return x if self.training else x * torch.rand((), generator=self.generator, dtype=x.dtype)


class Holds(Base):
    """A buffer of a kind that no checkpoint has."""

    def __init__(self, tensor):
        super().__init__()
        self.register_buffer("held", tensor)


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
        (DrawsToTell, "generator"),
        (lambda: Holds(torch.zeros(2, dtype=torch.complex128)), "held is torch.complex128"),
        (lambda: Holds(torch.eye(2).to_sparse()), "held is torch.float64, which a checkpoint cannot hold"),
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


class LateLayer(Base):
    """Becomes another network of the same tensors after some training steps."""

    def __init__(self, steps=0):
        super().__init__()
        self.steps = steps

    def features(self, x):
        if self.training:
            self.steps -= 1
            if self.steps < 0:
                self.body[2] = nn.Tanh()
        return super().features(x)


@pytest.mark.parametrize("kind", [LateHook, LateBuffer, LateLayer, plain_networks.GrowingObserver])
def test_a_network_that_is_not_made_of_the_same_any_more_is_refused_at_the_start(kind):
    x, y, _ = data(size=8)
    with pytest.raises(CheckpointError, match="came or went as it ran"):
        check_resumable(esper.grow(kind().double(), {"mid": "body"}, x[:2]), x[:8], y[:8])


def test_a_network_that_becomes_another_later_is_in_no_checkpoint():
    grown = growth(lambda: LateLayer(steps=4))  # an epoch has three
    stepped(grown, [WAIT] * 3)
    grown.state()
    stepped(grown, [WAIT] * 3)
    with pytest.raises(CheckpointError, match=r"body\.(inner\.)?2: layers, .* came or went as it ran"):
        grown.state()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, y, order: (x, y, order, 0), "batch_size=0"),
        (lambda x, y, order: (x, y, order[:0], 4), "0 examples"),
        (lambda x, y, order: (x, y, order + 1, 4), "order: expected whole numbers from 0 to 36"),
        (lambda x, y, order: (x, y, order - 1, 4), "order: expected whole numbers"),
        (lambda x, y, order: (x, y, order.double(), 4), "order: expected whole numbers"),
        (lambda x, y, order: (x, y.double(), order, 4), "targets: expected the numbers of classes"),
        (lambda x, y, order: (x, y - 101, order, 4), "targets: expected the numbers of classes"),
    ],
)
def test_what_no_epoch_can_be_made_of_is_answered_in_a_line(change, reason):
    x, y, order = data(size=8)
    population = Population([esper.grow(build("plain", 0), {"mid": "body"}, x[:2])], OptimizerConfig())
    with pytest.raises(EngineError, match=reason):
        population.train_epoch(*change(x, y, order))


@pytest.mark.parametrize("kind", ["fused", "sequential", None])
def test_without_gradients_nothing_is_trained(kind):
    x, y, order = data(size=8)
    population = Population([esper.grow(build("plain", 0), {"mid": "body"}, x[:2])], OptimizerConfig(), kind)
    with torch.no_grad(), pytest.raises(EngineError, match="gradients are switched off"):
        population.train_epoch(x, y, order, 16)


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
    check_resumable(model, x[:8], y[:8])
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


@pytest.mark.sampled(6)
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


@pytest.mark.parametrize("kind", ["fused", "sequential"])
def test_whether_minibatches_of_one_do_is_asked_anew_where_a_member_has_grown(kind):
    x, y, order = data(count=33, size=8)
    network = nn.Sequential(conv(ins=2), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 5))
    models = [esper.grow(copy.deepcopy(network).double(), {"mid": "2"}, x[:2]) for _ in range(2)]
    population = Population(models, OptimizerConfig(), kind)
    for batch_size in (16, 1):
        assert population.train_epoch(x, y, order, batch_size).loss.isfinite().all()
    models[1].germinate_seed("norm", "s", "mid", "linear")  # which learns nothing from one value per channel
    models[1].slots["mid"].begin_training(QualityGates())
    for batch_size in (16, 1):
        with pytest.raises(EngineError, match=f"batch_size={batch_size}: 33 examples leave a minibatch of one"):
            population.train_epoch(x, y, order, batch_size)
    assert population.train_epoch(x, y, order, 11).loss.isfinite().all()


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


@pytest.mark.slow
def test_a_strided_convolution_does_not_crash_the_interpreter():
    ran = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, env=os.environ, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, "survived"), ran.stderr[-500:]


def without_convolutions():
    return Base(nn.BatchNorm2d(2), nn.ReLU(), stem=nn.BatchNorm2d(2), head=nn.Linear(2, 5))


@pytest.mark.parametrize(
    "network",
    [
        plain_networks.strided,
        lambda: Base(nn.Conv2d(4, 4, 3, padding=2, dilation=2)),
        lambda: Base(conv(padding_mode="reflect")),
        lambda: Base(nn.ConvTranspose2d(4, 4, 1)),
        plain_networks.scaling_conv,
        without_convolutions,
    ],
)
def test_channels_last_is_refused_where_it_is_not_sound(network):
    x, y, _ = data(size=8)
    models = [esper.grow(each().double(), {"mid": "body"}, x[:2], topology="cnn") for each in (network, Base)]
    with pytest.raises(EngineError, match="channels_last is not sound"):
        choose_engine(models[:1], OptimizerConfig(), x[:8], y[:8], kind="sequential", memory_format="channels_last")
    choose_engine(models[1:], OptimizerConfig(), x[:8], y[:8], kind="sequential", memory_format="channels_last")
    assert models[1].host.module.stem.weight.is_contiguous(memory_format=torch.channels_last)


class WholeBatches(Base):
    def features(self, x):
        return super().features(x.view(16, 2, 8, 8))


class SinglePrecision(Base):
    """Of which a constant stays as it is when its weights are cast."""

    def __init__(self):
        super().__init__(conv(), nn.ReLU())
        self.mix = [torch.eye(8)]

    def features(self, x):
        return super().features(x) @ self.mix[0]


@pytest.mark.parametrize("kind", ["sequential", None])
@pytest.mark.parametrize("network", [WholeBatches, SinglePrecision])
def test_networks_that_run_on_what_they_are_given_alone_are_compared_on_that(network, kind):
    x, y, order = data(count=32, size=8, dtype=torch.float32)
    population = Population([esper.grow(network(), {"mid": "body"}, x[:16])], OptimizerConfig(), kind)
    assert population.train_epoch(x, y, order, 16).loss.isfinite().all()


def test_choosing_and_checking_leave_the_examples_alone():
    x, y, _ = data(count=8, size=8)
    before = x.clone()
    model = esper.grow(plain_networks.InplaceInput().double(), {"mid": "body"}, x)
    check_resumable(model, x, y)
    choose_engine([model], OptimizerConfig(), x, y, threads=1)
    assert torch.equal(x, before)


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


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a, b: setattr(b.body[1], "eps", 0.1), "layer body.1 of member 1"),
        (lambda a, b: b.body[0].weight.requires_grad_(False), "layer body.0 of member 1"),
        (lambda a, b: setattr(b.body, "2", nn.Tanh()), "layer body.2 of member 1"),
        (lambda a, b: setattr(b.body, "2", nn.SiLU()), "layer body.2 of member 1"),  # with a ReLU's attributes
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


class OwnTrain(Base):
    def train(self, mode=True):
        return super().train(mode)


class OwnEval(Base):
    def eval(self):
        return super().eval()


class ReplacesUnread(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def features(self, x):
        self.seen = torch.ones(1)
        return super().features(x)


class CountsUnread(plain_networks.CountingBuffer):
    def features(self, x):
        self.calls += 1
        return Base.features(self, x)


class DrawsUnread(Base):
    def features(self, x):
        torch.rand(())
        return super().features(x)


class RectifiesInput(Base):
    def __init__(self):
        super().__init__()
        self.first = nn.ReLU(inplace=True)

    def features(self, x):
        return super().features(self.first(x))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (plain_networks.weight_norm, "its weights are parametrised"),
        (plain_networks.instance_forward, "its forward is not that of Conv2d"),
        (OwnTrain, r"has a train\(\) or eval\(\) of its own"),
        (OwnEval, r"has a train\(\) or eval\(\) of its own"),
        (plain_networks.left_in_eval, r"layer body\.1: stays in evaluation mode"),
        (ReplacesUnread, "forward changes seen"),
        (CountsUnread, "works in place"),
        (DrawsUnread, "forward draws random numbers"),
        (RectifiesInput, "layer first: works in place on what is read elsewhere"),
    ],
)
def test_what_fusing_would_lose_is_named(network, reason):
    x, _, _ = data(size=8)
    model = esper.grow(network().double(), {"mid": "body"}, x[:2])
    with pytest.raises(EngineError, match=reason):
        Population([model], OptimizerConfig(), "fused", is_proven=True)


def test_a_network_with_a_part_of_low_precision_is_not_fused():
    x, _, _ = data(size=8)
    network = Base().double()
    network.register_buffer("seen", torch.zeros(1, dtype=torch.bfloat16))
    with pytest.raises(EngineError, match=r"seen is torch\.bfloat16: such networks train one by one"):
        Population([esper.grow(network, {"mid": "body"}, x[:2])], OptimizerConfig(), "fused", is_proven=True)


def test_members_that_are_one_network_or_share_parts_are_refused():
    x, _, _ = data(size=8)
    model, other = (esper.grow(build("plain", 0), {"mid": "body"}, x[:2]) for _ in range(2))
    with pytest.raises(EngineError, match="members 0 and 1 share"):
        Population([model, model], OptimizerConfig())
    other.host.module.stem = model.host.module.stem
    with pytest.raises(EngineError, match=r"members 0 and 1 share module.stem"):
        Population([model, other], OptimizerConfig())
    untied = build("tied", 1)
    untied.body[2].weight = nn.Parameter(untied.body[2].weight.detach().clone())
    for kind, differing in (("plain", build("strided", 0)), ("tied", untied), ("plain", build("plain", 1).float())):
        networks = build(kind, 0), differing
        models = [esper.grow(network, {"mid": "body"}, x[:2].to(network.head.weight.dtype)) for network in networks]
        with pytest.raises(EngineError, match="all members of a population have one architecture"):
            Population(models, OptimizerConfig())


class Observes(Base):
    """Puts what it is told to in the place of a tensor in its third training step, an epoch's last."""

    def __init__(self, change):
        super().__init__()
        self.register_buffer("seen", torch.zeros(0, dtype=torch.float64))
        self.spare = nn.Parameter(torch.zeros(4))
        self.calls, self.change = 0, change

    def features(self, x):
        self.calls += self.training
        if self.training and self.calls == 3:
            self.change(self)
        return super().features(x)


def sees(*shape, dtype=torch.float64):
    return lambda net: setattr(net, "seen", torch.ones(shape, dtype=dtype))


def sets_data(net):
    net.spare.data = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ((sees(4), lambda net: None), r"seen: is \[0\] torch.float64, and the network makes it \[4\]"),
        ((sees(4), sees(3)), r"seen: is \[0\] torch.float64, and the network makes it \[4\]"),
        ((sees(4), sees(4, dtype=torch.float32)), r"seen: is \[0\] torch.float64, and the network makes it \[4\]"),
        ((sees(0, dtype=torch.float32),) * 2, r"seen: is \[0\] torch.float64, and the network makes it \[0\]"),
        ((lambda net: setattr(net, "seen", None),) * 2, "seen: the network replaces it"),
        ((lambda net: setattr(net.stem, "bias", nn.Parameter(torch.ones(4).double())),) * 2, "bias: the network repl"),
        ((sets_data,) * 2, r"spare: is \[4\] torch.float64, and the network makes it \[1\]"),
    ],
)
def test_tensors_that_no_stack_can_hold_any_more_are_named(changes, reason):
    x, y, order = data(size=8)
    models = [esper.grow(Observes(change).double(), {"mid": "body"}, x[:2]) for change in changes]
    population = Population(models, OptimizerConfig(), "sequential", is_proven=True)
    with pytest.raises(EngineError, match=reason):
        population.train_epoch(x, y, order, 16)


def test_buffers_that_grow_in_all_members_alike_are_rows_of_their_stack_again():
    x, y, order = data(size=8)
    models = [esper.grow(Observes(sees(4)).double(), {"mid": "body"}, x[:2]) for _ in range(2)]
    population = Population(models, OptimizerConfig(), "sequential")
    population.train_epoch(x, y, order, 16)
    population.stacks["host"].buffers["module.seen"].copy_(torch.tensor([[2.0], [3.0]]))
    assert [model.host.module.seen.tolist() for model in models] == [[2.0] * 4, [3.0] * 4]


def test_layers_that_have_no_shape_yet_are_named():
    x, _, _ = data(size=8)
    network = Base().double()
    network.spare = nn.LazyLinear(3)
    with pytest.raises(EngineError, match=r"spare\.weight has no shape yet: run the network once"):
        Population([esper.grow(network, {"mid": "body"}, x[:2])], OptimizerConfig())


CHANGES = {
    "hook": lambda net: net.stem.register_forward_hook(lambda *_: None),
    "post-accumulate hook": lambda net: net.stem.weight.register_post_accumulate_grad_hook(lambda p: None),
    "backward hook": lambda net: net.stem.register_full_backward_hook(lambda *_: None),
    "parameter hook": lambda net: net.stem.weight.register_hook(lambda grad: grad),
    "attribute": lambda net: setattr(net, "scale", 2.0),
    "layer": lambda net: setattr(net, "pool", nn.AdaptiveMaxPool2d(1)),
    "one more layer": lambda net: net.body.append(nn.Tanh()),
    "one more parameter": lambda net: net.register_parameter("gain", nn.Parameter(torch.ones(()))),
    "one more buffer": lambda net: net.register_buffer("shift", torch.ones(())),
    "class": lambda net: setattr(net.body[2], "__class__", nn.Tanh),
    "setting": lambda net: setattr(net.body[1], "eps", 0.1),
    "parameter": lambda net: setattr(net.stem, "weight", nn.Parameter(net.stem.weight.detach().clone())),
    "dtype": lambda net: net.float(),
}


@pytest.mark.sampled(5)
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


def test_a_hook_on_all_modules_stops_the_fused_engine_while_it_is_there():
    x, y, order = data(size=8)
    model = esper.grow(build("plain", 0), {"mid": "body"}, x[:2])
    population = Population([model], OptimizerConfig(), "fused")
    population.train_epoch(x, y, order, 16)
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(EngineError, match="changed since its population was made"):
            population.train_epoch(x, y, order, 16)
        with pytest.raises(EngineError, match="hooks on all modules"):
            Population([model], OptimizerConfig(), "fused")
    finally:
        hook.remove()
    assert population.train_epoch(x, y, order, 16).loss.isfinite().all()


def test_a_mode_that_is_switched_between_epochs_stops_nothing():
    x, y, order = data(size=8)
    model = esper.grow(build("plain", 0), {"mid": "body"}, x[:2])
    population = Population([model], OptimizerConfig(), "fused")
    for mode in (False, True, False):
        model.train(mode)
        assert population.train_epoch(x, y, order, 16).loss.isfinite().all()


@pytest.mark.sampled(1)
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


class InFloat32(Base):
    """Runs in float32 alone, as networks that cast their input do; its first bias has no gradient but rounding."""

    def features(self, x):
        return super().features(x.float())


@pytest.mark.parametrize("is_channels_last", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_rounding_refuses_no_network_that_runs_in_float32_alone(seed, is_channels_last):
    torch.manual_seed(seed)
    x, y, _ = data(count=32, size=8, dtype=torch.float32)
    grown = esper.grow(InFloat32(), {"mid": "body"}, x[:2], topology="cnn")
    trial = Trial([grown], [OptimizerConfig()], x, y, engine_population.build)
    assert difference(trial, Way("sequential", is_channels_last)) is None
