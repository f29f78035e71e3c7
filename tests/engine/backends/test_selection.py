"""Which engine trains: measured, asked for, or the only one possible."""

import collections
import dataclasses
import itertools

import pytest
import torch
from torch import nn

from esper.engine.backends import selection
from esper.engine.backends.base import Way
from esper.engine.backends.proof import Trial, difference
from esper.engine.choice import choose_engine
from esper.engine.fusion.image_layout import ImageLayout
from esper.engine.fusion.tracing import Program
from esper.engine.kernels import native
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import build
from esper.errors import EngineError
from esper.leyline import SeedStage
from tests.engine.growing import data, model, plant


def choose(kind: str = "auto", bodies=None):
    x, y, _ = data()
    return choose_engine(bodies or [model(0), model(1)], OptimizerConfig(), x, y, kind=kind)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)


class Clock:
    """Seconds that each way takes on one and on two threads: fused, one by one, the same in channels_last."""

    def __init__(self, seconds):
        ways = itertools.product([("fused", False), ("sequential", False), ("sequential", True)], (1, 2))
        self.seconds = {(*way, threads): each for (way, threads), each in zip(ways, seconds, strict=True)}
        self.calls = collections.Counter()

    def __call__(self, step):
        engine = step.func.__self__
        way = (engine.kind, getattr(engine, "is_channels_last", False), torch.get_num_threads())
        self.calls[way] += 1
        return self.seconds[way][min(self.calls[way], len(self.seconds[way])) - 1]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("seconds", "kind", "threads"),
    [
        ([4, 1, 3, 2, 5, 5], "fused", 2),
        ([4, 3, 1, 2, 5, 5], "sequential", 1),
        ([1, 2, 3, 4, 5, 5], "fused", 1),
        ([4, 3, 2, 1, 5, 5], "sequential", 2),
        ([4, 3, 2, 3, 5, 1], "sequential, channels_last", 2),
    ],
)
def test_the_fastest_way_is_taken(two_threads, monkeypatch, seconds, kind, threads):
    monkeypatch.setattr(selection, "_seconds", Clock([[each] for each in seconds]))
    population, reason = choose()
    assert (population.engine.kind, torch.get_num_threads()) == (kind.split(",")[0], threads)
    assert population.is_channels_last == ("channels_last" in kind)
    assert f"{kind}, {threads} threads: 1000.00 ms a step" in reason


@pytest.mark.slow
@pytest.mark.alone
def test_the_fastest_take_turns_after_a_first_try(two_threads, monkeypatch):
    monkeypatch.setattr(selection, "ENOUGH_S", 60.0)  # however busy the machine is
    clock = Clock([[30, 22], [20, 23], [90], [35, 21], [90], [90]])  # one by one on two threads was disturbed at first
    monkeypatch.setattr(selection, "_seconds", clock)
    population, _ = choose()
    assert (population.engine.kind, torch.get_num_threads()) == ("sequential", 2)
    hopeless, contender = ("sequential", False, 1), ("sequential", False, 2)
    assert clock.calls[hopeless] == 1 and clock.calls[contender] == selection.REPEATS


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "enough_s"), [([10, 20, 30, 40, 50, 60], 60.0), ([10, 11, 12, 13, 14, 15], 0.0)])
def test_what_is_decided_or_takes_too_long_is_tried_once(two_threads, monkeypatch, seconds, enough_s):
    clock = Clock([[each] for each in seconds])
    monkeypatch.setattr(selection, "_seconds", clock)
    monkeypatch.setattr(selection, "ENOUGH_S", enough_s)
    assert choose()[0].engine.kind == "fused"
    assert set(clock.calls.values()) == {1}


@pytest.mark.slow
def test_measuring_leaves_torch_its_threads(two_threads, monkeypatch):
    monkeypatch.setattr(selection, "_seconds", Clock([[4], [3], [1], [2], [5], [5]]))
    for seed in range(2):
        chosen = selection.choose(trial([model(seed)]), thread_counts=[2, 1])
        assert chosen.threads == 1 and torch.get_num_threads() == 2

    def fail(step):
        raise EngineError(f"fails on {torch.get_num_threads()}")

    monkeypatch.setattr(selection, "_seconds", fail)
    with pytest.raises(EngineError, match="fails on 1"):
        selection.choose(trial([model(0)]), thread_counts=[1, 2])
    assert torch.get_num_threads() == 2


@pytest.mark.slow
def test_hosts_of_esper_s_own_are_compared_once_unless_they_have_grown(monkeypatch):
    monkeypatch.setattr(selection, "_proven", set())
    built = []
    planted = model(0)
    plant(planted, "mid", "norm", "linear", SeedStage.BLENDING, 0)
    for body, count in ((model(0), 1), (model(1), 1), (model(0, channels=(3, 4, 8)), 2), (planted, 3), (planted, 4)):
        selection.choose(trial([body], built.append), kind="fused")
        assert len(built) == count


def test_threads_that_were_asked_for_stay(two_threads):
    x, y, _ = data()
    choose_engine([model(0), model(1)], OptimizerConfig(), x, y, threads=1)
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_measuring_leaves_the_members_as_they_were():
    bodies, untouched = [model(0), model(1)], [model(0), model(1)]
    choose(bodies=bodies)
    for body, other in zip(bodies, untouched, strict=True):
        for (name, tensor), (_, expected) in zip(body.named_buffers(), other.named_buffers(), strict=True):
            if not name.endswith("num_batches_tracked"):
                assert torch.equal(tensor, expected), name
        assert all(torch.equal(a, b) for a, b in zip(body.parameters(), other.parameters(), strict=True))


# ---- what is compared


def otherwise(owner, name, change):
    """The method gives something else."""
    method = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **settings: change(method(*arguments, **settings)))


def lose(found):
    found.losses.mul_(1.001)
    return found


def bend(found, name="head.weight", rows=slice(None)):
    found.gradients["host"][name][rows].mul_(1.001)
    return found


def leave_out(found):
    return dataclasses.replace(found, absent={"host": {"head.bias": [1]}})


def drop(found):
    del found.gradients["host"]["head.bias"]
    return found


def late(change):
    """From the second time on."""
    times = itertools.count()
    return lambda found: change(found) if next(times) else found


def move(population, name):
    otherwise(population.engine, "finish", lambda _: population.stacks["host"].tensors()[name].detach().mul_(1.001))


def hurry(population):
    rate = population.optimizer.rows["host"].learning_rate
    otherwise(population.optimizer, "begin_epoch", lambda _: rate.mul_(1.001))


WRONGS = {
    "loss": (lambda p: otherwise(p.engine, "backward", lose), "loss of member 0 is off"),
    "a gradient": (lambda p: otherwise(p.engine, "backward", bend), "gradient of head.weight in member 0"),
    "a gradient of one": (
        lambda p: otherwise(p.engine, "backward", lambda found: bend(found, rows=1)),
        "gradient of head.weight in member 1",
    ),
    "a gradient later": (lambda p: otherwise(p.engine, "backward", late(bend)), "gradient of head.weight in member 0"),
    "a row left out": (lambda p: otherwise(p.engine, "backward", leave_out), "gradient of head.bias in member 1"),
    "a parameter left out": (lambda p: otherwise(p.engine, "backward", drop), "gradient of head.bias in member 0"),
    "a parameter": (lambda p: move(p, "head.bias"), "value of host.head.bias in member 0"),
    "statistics": (lambda p: move(p, "blocks.0.1.running_var"), "value of host.blocks.0.1.running_var in member 0"),
    "a step": (hurry, "value of host"),
    "an evaluation": (
        lambda p: otherwise(p.engine, "logits", lambda logits: logits * 1.001),
        "loss in evaluation of member 0",
    ),
}


def trial(bodies, change=lambda population: None, config=None):
    def changed(*arguments):
        population = build(*arguments)
        change(population)
        return population

    x, y, _ = data()
    return Trial(bodies, [config or OptimizerConfig()] * len(bodies), x, y, changed)


@pytest.mark.parametrize("kind", ["fused", "sequential"])
def test_an_engine_that_is_right_has_no_difference(kind):
    assert difference(trial([model(0), model(1)]), Way(kind)) is None


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["fused", "sequential"])
@pytest.mark.parametrize("wrong", WRONGS)
def test_what_an_engine_does_otherwise_is_told(wrong, kind):
    change, told = WRONGS[wrong]
    assert told in difference(trial([model(0), model(1)], change), Way(kind))


def test_a_member_that_has_diverged_hides_nothing():
    bodies = [model(0), model(1), model(2)]
    with torch.no_grad():
        bodies[0].host.head.bias.fill_(float("nan"))
    assert difference(trial(bodies), Way("fused")) is None
    assert "head.weight" in difference(trial(bodies, WRONGS["a gradient"][0]), Way("fused"))


def test_steps_that_rounding_alone_would_make_are_no_difference():
    bodies = [model(seed) for seed in range(2)]
    for body in bodies:  # no gradient reaches the bias before a batch norm, but for rounding
        body.host.blocks[0][0] = nn.Conv2d(2, 3, 3, padding=1).double()
    assert difference(trial(bodies, config=OptimizerConfig(name="adamw", eps=1e-30)), Way("fused")) is None


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stretch = nn.ConvTranspose2d(2, 2, 3, stride=2)

    def forward(self, x):
        return self.stretch(x)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Masked(nn.Module):
    def forward(self, x, mask=None):
        return torch.relu(x)


class Scales(nn.Module):
    """Calls a layer with more than its input."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = Scale()

    def forward(self, x):
        return self.scale(x, factor=2.0)


class Scale(nn.ReLU):
    def forward(self, x, factor=1.0):
        return x * factor


Scale.__module__ = "torch.nn.scaling"  # of a library that extends torch.nn, and so not traced into


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (Odd(), "layer stretch"),
        (Branching(), "Branching.forward"),
        (Masked(), "Masked.forward takes more than one input"),
        (Scales(), "layer scale: is called with more than its input"),
    ],
)
def test_what_cannot_be_fused_is_refused_by_name(module, named):
    with pytest.raises(EngineError, match=named):
        Program(module, ImageLayout())


def bodies_with_an_odd_layer():
    bodies = [model(0), model(1)]
    for body in bodies:
        body.host.blocks[0][0] = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", bias=False).double()
    return bodies


def test_an_odd_layer_means_one_by_one_and_fused_refuses_it():
    population, reason = choose(bodies=bodies_with_an_odd_layer())
    assert population.engine.kind == "sequential" and "blocks.0.0" in reason
    with pytest.raises(EngineError, match=r"engine.kind=fused: layer blocks.0.0.*engine.kind=sequential"):
        choose("fused", bodies_with_an_odd_layer())


@pytest.mark.parametrize(("compiler", "said"), [("/nowhere/g++", "could not compile"), ("", "no C++ compiler")])
def test_without_a_compiler_torch_does_the_work(monkeypatch, tmp_path, compiler, said):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.load.cache_clear()
    try:
        library, reason = native.load()
        assert library is None and said in reason
        assert choose("fused")[0].engine.kind == "fused"
    finally:
        native.load.cache_clear()


@pytest.mark.slow
def test_choosing_leaves_torchs_global_stream_alone():
    x, y, _ = data()
    before = torch.get_rng_state()
    choose_engine([model(0), model(1)], OptimizerConfig(), x, y, kind="fused", threads=1, blueprints=["conv_heavy"])
    assert torch.equal(torch.get_rng_state(), before)
