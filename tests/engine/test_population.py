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
from esper.kasmina.python_state import fingerprints
from tests.engine import random_networks
from tests.engine.plain_networks import BY_IDENTITY, DRAWING, FUSES, NETWORKS, PROVEN_OTHERWISE, build

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


def plain(network, config, epochs=EPOCHS):
    """A loop as anybody would write it; losses by epoch."""
    if config.name == "sgd":
        settings = {"lr": config.learning_rate, "momentum": config.momentum, "weight_decay": config.weight_decay}
        optimizer = torch.optim.SGD(network.parameters(), **settings)
    else:
        settings = {"lr": config.learning_rate, "betas": config.betas, "eps": config.eps}
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay, **settings)
    x, y, orders = examples()
    losses = []
    for order in orders[:epochs]:
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


@pytest.mark.sampled(7)
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
        with pytest.raises(EngineError) as refused:
            ours(brought, config, kind)
        assert str(refused.value).startswith("engine.kind=fused") == (network in PROVEN_OTHERWISE), refused.value
        return
    population, got, trained = ours(brought, config, kind)
    assert kind is None or population.engine.kind == kind
    for member in members:
        assert got[member] == pytest.approx(losses[member], rel=1e-9)
        wanted, found = tensors(expected[member]), tensors(trained[member])
        assert wanted.keys() == found.keys()
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
        kept = [fingerprints(one) for one in (expected[member], trained[member])]
        wanted_state, found_state = ({path.replace("body.inner", "body"): v for path, v in one.items()} for one in kept)
        # Tensors are compared above, or differ in their last bits where images lie otherwise.
        comparable = [p for p, v in wanted_state.items() if network not in BY_IDENTITY and not isinstance(v, tuple)]
        assert [path for path in comparable if wanted_state[path] != found_state.get(path)] == []


RUNS, NETWORKS_A_RUN = 25, 20


@pytest.mark.slow
@pytest.mark.parametrize("run", range(RUNS))
def test_networks_put_together_at_random_are_trained_as_a_plain_loop_trains_them(run):
    fused = 0
    for number in range(run * NETWORKS_A_RUN, (run + 1) * NETWORKS_A_RUN):
        config = OPTIMIZERS[("sgd", "adamw")[number % 2]]
        expected = [random_networks.network(number, member) for member in range(2)]
        try:
            losses = [plain(one, config, epochs=1) for one in expected]
        except RuntimeError:
            continue  # in-place layers may spoil what the backward pass needs: plain PyTorch refuses it, too
        x, y, (order, *_) = examples()
        networks = [random_networks.network(number, member) for member in range(2)]
        models = [esper.grow(one, {"mid": "1"}, x[:2], topology="cnn") for one in networks]
        try:
            population = Population(models, config, "fused")
            got = population.train_epoch(x, y, order, BATCH).loss.tolist()
        except EngineError:
            population = Population(models, config)
            got = population.train_epoch(x, y, order, BATCH).loss.tolist()
        assert [[loss] for loss in got] == [pytest.approx(one, rel=1e-9) for one in losses], number
        for one, model in zip(expected, models, strict=True):
            found = tensors(model.host.module)
            for (name, tensor), other in zip(tensors(one).items(), found.values(), strict=True):
                torch.testing.assert_close(
                    other, tensor, rtol=1e-9, atol=1e-9, msg=lambda m, n=name, k=number: f"network {k}, {n}: {m}"
                )
        fused += population.engine.kind == "fused"
    assert fused
