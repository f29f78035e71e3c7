"""Networks of vectors as users bring them, fused, against the same networks one by one."""

import pytest
import torch
from torch import nn

import esper
from esper.engine.backends.base import Way
from esper.engine.backends.proof import Trial, difference
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import build
from esper.kasmina.attention import SelfAttention
from esper.kasmina.blueprints.registry import BlueprintRegistry
from esper.leyline import SeedStage
from tests.engine.growing import plant

BLUEPRINTS = [spec.name for spec in BlueprintRegistry.list_specs("mlp")]
STAGES = (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.FOSSILIZED)
# The network, the layer that the slot is behind, and the shape of an example.
NETWORKS = {
    "batch norm": (lambda: [nn.Linear(7, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.GELU()], "2", (7,)),
    "layer norm": (lambda: [nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 6, bias=False), nn.Tanh()], "2", (7,)),
    "bare norm": (lambda: [nn.Linear(7, 6), nn.LayerNorm(6, elementwise_affine=False), nn.SiLU()], "1", (7,)),
    "norm without shift": (lambda: [nn.Linear(7, 6), nn.LayerNorm(6, bias=False), nn.ReLU()], "2", (7,)),
    "root mean square": (lambda: [nn.Linear(7, 6), nn.RMSNorm(6), nn.ReLU()], "1", (7,)),
    "rows of images": (lambda: [nn.Flatten(), nn.Linear(12, 6), nn.Sigmoid()], "2", (1, 3, 4)),
    "each of a series": (
        lambda: [nn.Linear(4, 2), nn.LayerNorm(2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 6)],
        "4",
        (3, 4),
    ),
    "attention": (lambda: [SelfAttention(4, 2), nn.Flatten(), nn.Linear(12, 6)], "2", (3, 4)),
    "convolutions": (
        lambda: [nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 6)],
        "4",
        (1, 3, 4),
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_with_every_blueprint_trains_as_it_does_alone(network, kernels):
    layers, slot, shape = NETWORKS[network]
    x = torch.randn(21, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.randint(5, (21,), generator=torch.Generator().manual_seed(1))
    models = []
    for member, blueprint in enumerate([*BLUEPRINTS, ""]):
        torch.manual_seed(member)
        plain = nn.Sequential(*layers(), nn.Linear(6, 5)).double()
        model = esper.grow(plain, {"mid": slot}, x[:2], topology="mlp")
        if blueprint:
            plant(model, "mid", blueprint, ("linear", "gated")[member % 2], STAGES[member % 3], member)
        models.append(model)
    trial = Trial(models, [OptimizerConfig(learning_rate=0.05)] * len(models), x, y, build)
    assert difference(trial, Way("fused")) is None
