"""Which engine trains: measured, asked for, or the only one possible."""

import collections
import itertools

import pytest
import torch
from torch import nn

from esper.engine.backends import selection
from esper.engine.choice import choose_engine
from esper.engine.fusion.image_layout import ImageLayout
from esper.engine.fusion.tracing import Program
from esper.engine.kernels import native
from esper.engine.optimizer import OptimizerConfig
from esper.errors import EngineError
from tests.engine.growing import data, model


def choose(kind: str = "auto", bodies=None):
    x, y, _ = data()
    return choose_engine(bodies or [model(0), model(1)], OptimizerConfig(), x, y, kind=kind)


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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
def test_the_fastest_way_is_taken(monkeypatch, seconds, kind, threads):
    monkeypatch.setattr(selection, "_seconds", Clock([[each] for each in seconds]))
    population, reason = choose()
    assert (population.engine.kind, torch.get_num_threads()) == (kind.split(",")[0], threads)
    assert population.is_channels_last == ("channels_last" in kind)
    assert f"{kind}, {threads} threads: 1000.00 ms a step" in reason


def test_the_fastest_take_turns_after_a_first_try(monkeypatch):
    clock = Clock([[30, 22], [20, 23], [90], [35, 21], [90], [90]])  # one by one on two threads was disturbed at first
    monkeypatch.setattr(selection, "_seconds", clock)
    population, _ = choose()
    assert (population.engine.kind, torch.get_num_threads()) == ("sequential", 2)
    hopeless, contender = ("sequential", False, 1), ("sequential", False, 2)
    assert clock.calls[hopeless] == 1 and clock.calls[contender] == selection.REPEATS


def test_threads_that_were_asked_for_stay():
    x, y, _ = data()
    choose_engine([model(0), model(1)], OptimizerConfig(), x, y, threads=1)
    assert torch.get_num_threads() == 1


def test_measuring_leaves_the_members_as_they_were():
    bodies, untouched = [model(0), model(1)], [model(0), model(1)]
    choose(bodies=bodies)
    for body, other in zip(bodies, untouched, strict=True):
        for (name, tensor), (_, expected) in zip(body.named_buffers(), other.named_buffers(), strict=True):
            if not name.endswith("num_batches_tracked"):
                assert torch.equal(tensor, expected), name
        assert all(torch.equal(a, b) for a, b in zip(body.parameters(), other.parameters(), strict=True))


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stretch = nn.Conv2d(2, 2, 3, stride=2)

    def forward(self, x):
        return self.stretch(x)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(("module", "named"), [(Odd(), "layer stretch"), (Branching(), "Branching.forward")])
def test_what_cannot_be_fused_is_refused_by_name(module, named):
    with pytest.raises(EngineError, match=named):
        Program(module, ImageLayout())


def bodies_with_an_odd_layer():
    bodies = [model(0), model(1)]
    for body in bodies:
        body.host.blocks[0][0] = nn.Conv2d(2, 3, 3, padding=2, dilation=2, bias=False).double()
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


def test_choosing_leaves_torchs_global_stream_alone():
    x, y, _ = data()
    before = torch.get_rng_state()
    choose_engine([model(0), model(1)], OptimizerConfig(), x, y, kind="fused", threads=1, blueprints=["conv_heavy"])
    assert torch.equal(torch.get_rng_state(), before)
