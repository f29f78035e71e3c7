"""Whatever network is trained, it is the user's network: as a plain loop trains it, or refused with the layer named."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import esper
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import EngineError
from esper.kasmina.python_state import read_state
from tests.engine.plain_networks import DRAWING, FUSES, NETWORKS, build

EPOCHS, BATCH = 3, 16
OPTIMIZERS = {
    "sgd": OptimizerConfig(name="sgd", learning_rate=0.05, momentum=0.9, weight_decay=0.01),
    # The bias of a convolution before batch norm has no gradient but rounding: eps keeps AdamW from stepping by it.
    "adamw": OptimizerConfig(name="adamw", learning_rate=0.01, weight_decay=0.1, clip_norm=1.0, eps=1e-4),
}


def examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(5, (40,), generator=generator)
    return x, y, [torch.randperm(40, generator=generator) for _ in range(EPOCHS)]


def reseed():
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)


def plain(network, config):
    """A loop as anybody would write it; losses by epoch."""
    if config.name == "sgd":
        settings = {"lr": config.learning_rate, "momentum": config.momentum, "weight_decay": config.weight_decay}
        optimizer = torch.optim.SGD(network.parameters(), **settings)
    else:
        settings = {"lr": config.learning_rate, "betas": config.betas, "eps": config.eps}
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay, **settings)
    x, y, orders = examples()
    losses = []
    for order in orders:
        total = 0.0
        for batch in order.split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x[batch]), y[batch])
            loss.backward()
            if config.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(x))
    return losses


def ours(networks, config, kind):
    x, y, orders = examples()
    models = [esper.grow(network, {"mid": "body"}, x[:2]) for network in networks]
    population = Population(models, config, kind)
    losses = [population.train_epoch(x, y, order, BATCH).loss.tolist() for order in orders]
    return population, [list(member) for member in zip(*losses, strict=True)], [model.host.module for model in models]


def tensors(network):
    named = (*network.named_parameters(), *network.named_buffers())
    return {name.replace("body.inner", "body"): tensor.detach() for name, tensor in named}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["fused", "sequential", None])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_trained_as_a_plain_loop_trains_it(network, kind, optimizer):
    config = OPTIMIZERS[optimizer]
    members = range(1 if network in DRAWING else 2)  # side by side, members would draw in turns
    reseed()
    expected = [build(network, member) for member in members]
    brought = [build(network, member) for member in members]
    reseed()
    losses = [plain(one, config) for one in expected]
    reseed()
    if kind == "fused" and network not in FUSES:
        with pytest.raises(EngineError, match=r"engine\.kind=fused|layer|forward|tied|is complex|are one tensor"):
            ours(brought, config, kind)
        return
    population, got, trained = ours(brought, config, kind)
    assert kind is None or population.engine.kind == kind
    for member in members:
        assert got[member] == pytest.approx(losses[member], rel=1e-9)
        wanted, found = tensors(expected[member]), tensors(trained[member])
        assert wanted.keys() == found.keys()
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
        before, after = (
            {path.replace("body.inner", "body"): value for path, value in read_state(one).items()}
            for one in (expected[member], trained[member])
        )
        assert {path: after.get(path) for path in before if isinstance(before[path], int | dict)} == {
            path: value for path, value in before.items() if isinstance(value, int | dict)
        }
