"""The same equality on a GPU, where steps replay as CUDA graphs."""

import pytest
import torch

from esper.leyline import SeedStage
from tests.engine.growing import data, language_model, model, plant, population, state, tokens

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


CASES = {
    "cnn": (model, data, ("conv_light", "attention", "depthwise")),
    "transformer": (language_model, tokens, ("mlp", "attention", "lora")),
}


def bodies(topology: str, device: str) -> list:
    make, _, blueprints = CASES[topology]
    grown = [make(seed) for seed in range(4)]
    plant(grown[0], "early", blueprints[0], "linear", SeedStage.BLENDING, 0)
    plant(grown[1], "mid", blueprints[1], "gated", SeedStage.BLENDING, 1)
    plant(grown[2], "late", blueprints[2], "sigmoid", SeedStage.TRAINING, 2)
    return [body.to(device) for body in grown]


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("topology", CASES)
def test_graphs_over_many_epochs_equal_the_plain_modules_on_the_cpu(topology, clip_norm):
    x, y, order = CASES[topology][1](count=80)
    results = []
    for device, kind in (("cuda", "fused"), ("cpu", "sequential")):
        trained = population(bodies(topology, device), kind, learning_rate=0.01, clip_norm=clip_norm)
        for _ in range(4):  # capture happens in the first epoch, replay from then on
            scores = trained.train_epoch(x.to(device), y.to(device), order.to(device), batch_size=16)
        assert kind == "sequential" or trained._graph.graphs
        results.append((scores.loss.cpu(), {n: t.cpu() for n, t in state(trained.models).items()}))
    (fused_loss, fused), (plain_loss, plain) = results
    torch.testing.assert_close(fused_loss, plain_loss, rtol=1e-8, atol=1e-9)
    for name, tensor in fused.items():
        torch.testing.assert_close(tensor, plain[name], rtol=1e-7, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}")


def test_mixed_precision_learns():
    x, y, order = data(count=64, dtype=torch.float32)
    trained = population([model(seed, dtype=torch.float32).cuda() for seed in range(4)], "fused", learning_rate=0.05)
    trained.engine.precision = torch.bfloat16
    x, y, order = x.cuda(), y.cuda(), order.cuda()
    first = trained.train_epoch(x, y, order, 16).loss
    for _ in range(15):
        last = trained.train_epoch(x, y, order, 16).loss
    assert (last < 0.7 * first).all()
