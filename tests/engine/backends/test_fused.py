"""One fused step equals separate steps, member by member: every blueprint, stage and blend."""

import itertools

import pytest
import torch

from esper.engine.backends.base import Way
from esper.engine.backends.proof import Trial, difference
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import build
from esper.errors import EngineError
from esper.kasmina.blueprints.registry import BlueprintRegistry
from esper.leyline import SeedStage
from tests.engine.growing import (
    STAGES,
    data,
    language_model,
    model,
    patch_model,
    plant,
    population,
    residual_model,
    rotary_model,
    series,
    series_model,
    state,
    tokens,
    vector_model,
    vectors,
)

BLENDS = ("linear", "sigmoid", "gated")
SLOTS = ("early", "mid", "late")
HOSTS = {"cnn": (model, data), "transformer": (language_model, tokens), "decoder": (rotary_model, tokens)}
HOSTS |= {"mlp": (vector_model, vectors), "cnn1d": (series_model, series)}
HOSTS |= {"resnet": (residual_model, data), "vit": (patch_model, data)}
CASES = [
    (host, spec.name)
    for host, (make, _) in HOSTS.items()
    for spec in BlueprintRegistry.list_specs(make(0).host.topology)
    if spec.name != "flex_attention"  # it cannot be trained on a CPU
    and not (host in ("resnet", "vit") and spec.name not in ("norm", "attention", "conv_light", "mlp"))
]


def grown(host: str, blueprint: str) -> list:
    """Each stage and blend once, at changing slots, some beside a seed of another kind, some beside none."""
    make = HOSTS[host][0]
    others = [name for kind, name in CASES if kind == host]
    bodies = []
    for index, (stage, blend) in enumerate(itertools.product(STAGES, BLENDS)):
        body = make(index)
        plant(body, SLOTS[index % 3], blueprint, blend, stage, index)
        if index % 4 == 0:
            plant(body, SLOTS[(index + 1) % 3], others[index % len(others)], blend, stage, index)
        bodies.append(body)
    return [*bodies, make(100), make(101)]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("host", "blueprint"), CASES)
def test_an_epoch_fused_equals_an_epoch_one_by_one(host, blueprint, kernels):
    settings = {"name": "sgd", "learning_rate": 0.05, "weight_decay": 0.01, "clip_norm": 1.0}
    x, y, order = HOSTS[host][1]()
    results = {}
    for kind in ("fused", "sequential"):
        bodies = grown(host, blueprint)
        trained = population(bodies, kind, **settings)
        scores = trained.train_epoch(x, y, order, batch_size=16)
        live = [(e, name) for e, body in enumerate(bodies) for name, slot in body.slots.items() if slot.alpha > 0]
        evaluation = trained.evaluate(x, y, without=live)
        results[kind] = (scores, evaluation, state(bodies))
    fused, sequential = results["fused"], results["sequential"]
    torch.testing.assert_close(fused[0].loss, sequential[0].loss, rtol=1e-9, atol=1e-9)
    assert torch.equal(fused[0].score, sequential[0].score)
    torch.testing.assert_close(fused[1][0].loss, sequential[1][0].loss, rtol=1e-9, atol=1e-9)
    assert fused[1][1].keys() == sequential[1][1].keys() and len(fused[1][1]) > 10
    for key, (loss, accuracy) in fused[1][1].items():
        assert (loss, accuracy) == pytest.approx(sequential[1][1][key], rel=1e-9)
    assert fused[2].keys() == sequential[2].keys()
    for name, tensor in fused[2].items():
        torch.testing.assert_close(
            tensor, sequential[2][name], rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("kind", ["fused", "sequential"])
def test_a_seed_that_was_just_planted_is_trained_without_further_ado(kind):
    bodies = [model(0), model(1)]
    trained = population(bodies, kind)
    plant(bodies[0], "mid", "conv_light", "linear", SeedStage.BLENDING, 0)
    before = {name: value.clone() for name, value in bodies[0].slots["mid"].seed.named_parameters()}
    x, y, order = data()
    expected = bodies[0].eval()(x)
    loss = trained.evaluate(x, y)[0].loss[0]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(expected, y))
    trained.train_epoch(x, y, order, batch_size=16)
    assert any(not torch.equal(value, before[name]) for name, value in bodies[0].slots["mid"].seed.named_parameters())


@pytest.mark.parametrize("kind", ["fused", "sequential"])
def test_a_seed_that_is_passed_by_learns_no_statistics_beside_one_that_runs(kind):
    bodies, (x, y, order) = [model(0), model(1)], data()
    trained = population(bodies, kind)
    trained.train_epoch(x, y, order, batch_size=16)
    plant(bodies[0], "mid", "norm", "linear", SeedStage.BLENDING, 0)
    bodies[1].germinate_seed("norm", "waiting", "mid", "linear")
    before = [{n: b.clone() for n, b in body.slots["mid"].seed.named_buffers()} for body in bodies]
    trained.train_epoch(x, y, order, batch_size=16)
    same = [
        [torch.equal(buffer, was[name]) for name, buffer in body.slots["mid"].seed.named_buffers()]
        for body, was in zip(bodies, before, strict=True)
    ]
    assert not any(same[0]) and all(same[1])


def test_a_seed_that_is_passed_by_is_no_reason_to_refuse_the_others():
    bodies, (x, y, _) = [model(0), model(1)], data()
    plant(bodies[0], "mid", "norm", "linear", SeedStage.BLENDING, 0)
    bodies[1].germinate_seed("norm", "waiting", "mid", "linear")
    trial = Trial(bodies, [OptimizerConfig()] * 2, x[:16], y[:16], build)
    assert difference(trial, Way("fused")) is None


def test_a_population_of_nobody_is_refused():
    with pytest.raises(EngineError, match="at least one model"):
        population([], "fused")
