"""Small bodies for tests, with every draw from a generator of its own."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import CNNHost, MLPHost, MorphogeneticModel, SeedSlot, SlotConfig, TransformerHost
from esper.kasmina.graft import GraftedHost
from esper.kasmina.host import Host
from esper.kasmina.seeding import weights_from
from esper.leyline import SeedStage
from esper.leyline.topologies import TOPOLOGIES

PATH = (SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED)


def named(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def features() -> Callable[..., Tensor]:
    """Random features that require a gradient, `size` along each dimension but the samples and channels."""

    def make(channels: int = 8, batch: int = 4, size: int = 6, seed: int = 0, topology: str = "cnn") -> Tensor:
        shape = [{"B": batch, "C": channels}.get(letter, size) for letter in TOPOLOGIES[topology]]
        return torch.randn(shape, generator=named(seed)).requires_grad_()

    return make


def series_host() -> Host:
    """A network of 1-D convolutions."""
    layers: dict[str, nn.Module] = {}
    with weights_from(named()):
        for number, (before, width) in enumerate(((1, 4), (4, 8), (8, 8)), start=1):
            block = [nn.Conv1d(before, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU()]
            layers[f"block{number}"] = nn.Sequential(*block)
        layers |= {"pool": nn.AdaptiveAvgPool1d(1), "flatten": nn.Flatten(), "head": nn.Linear(8, 5)}
    positions = {name: name for name in layers if name.startswith("block")}
    return GraftedHost(nn.Sequential(OrderedDict(layers)), positions, torch.zeros(2, 1, 8))


HOSTS: dict[str, Callable[[], Host]] = {
    "cnn": lambda: CNNHost(num_classes=5, in_channels=1, channels=[4, 8, 8], generator=named()),
    "transformer": lambda: TransformerHost(
        vocab_size=5, n_embd=8, n_head=2, n_layer=3, block_size=6, generator=named()
    ),
    "mlp": lambda: MLPHost(num_classes=5, in_features=6, widths=[4, 8, 8], generator=named()),
    "cnn1d": series_host,
}


@pytest.fixture
def make_slot() -> Callable[..., SeedSlot]:
    """A slot whose seed has come to a stage; `perturb` moves every weight away from its initial value."""

    def make(
        blueprint: str = "conv_light",
        blend: str = "linear",
        stage: SeedStage = SeedStage.TRAINING,
        channels: int = 8,
        perturb: bool = False,
        seed: int = 0,
        config: SlotConfig | None = None,
        topology: str = "cnn",
    ) -> SeedSlot:
        slot = SeedSlot("mid", channels=channels, config=config, topology=topology)
        slot.germinate(blueprint, "s", blend_algorithm_id=blend, generator=named(seed))
        if perturb:
            with torch.no_grad():
                for parameter in slot.seed.parameters():
                    parameter += 0.3 * torch.randn(parameter.shape, generator=named(seed))
        for step in PATH[1 : PATH.index(stage) + 1]:
            slot.state.transition(step)
        if stage is SeedStage.BLENDING:
            slot.step(slot.config.blending_steps // 2)
        return slot

    return make


@pytest.fixture
def make_model() -> Callable[..., MorphogeneticModel]:
    """A small host with three slots and five classes or tokens; the same weights each time."""

    def make(config: SlotConfig | None = None, topology: str = "cnn") -> MorphogeneticModel:
        return MorphogeneticModel(HOSTS[topology](), slot_config=config)

    return make
