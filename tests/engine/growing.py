"""Populations for tests: members in every stage, with any blueprint and blend."""

from collections.abc import Sequence

import torch
from torch import nn

from esper.engine.epoch import EpochRunner
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.kasmina.graft import GraftedHost
from esper.kasmina.host import (
    CNNHost,
    Decoder,
    Host,
    MLPHost,
    MorphogeneticModel,
    ResNetHost,
    TransformerHost,
    ViTHost,
)
from esper.kasmina.seeding import weights_from
from esper.kasmina.slot import SlotConfig
from esper.leyline import SeedStage

STAGES = (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED, SeedStage.CULLED)


def model(
    seed: int,
    channels: Sequence[int] = (3, 4, 6),
    in_channels: int = 2,
    dtype=torch.float64,
    slots=("early", "mid", "late"),
):
    host = CNNHost(
        num_classes=5,
        n_blocks=len(channels),
        in_channels=in_channels,
        channels=channels,
        generator=torch.Generator().manual_seed(seed),
    )
    config = SlotConfig(blending_steps=5, cull_steps=4)
    return MorphogeneticModel(host, slots=slots, slot_config=config).to(dtype)


def language_model(seed: int, dtype: torch.dtype = torch.float64) -> MorphogeneticModel:
    host = TransformerHost(
        vocab_size=11, n_embd=8, n_head=2, n_layer=3, block_size=6, generator=torch.Generator().manual_seed(seed)
    )
    return MorphogeneticModel(host, slot_config=SlotConfig(blending_steps=5, cull_steps=4)).to(dtype)


def rotary_model(seed: int, window: int | None = 3, dtype: torch.dtype = torch.float64) -> MorphogeneticModel:
    host = Decoder(11, 8, 2, 3, 6, window, torch.Generator().manual_seed(seed))
    return MorphogeneticModel(host, slot_config=SlotConfig(blending_steps=5, cull_steps=4)).to(dtype)


def vector_model(seed: int) -> MorphogeneticModel:
    return _grown(MLPHost(5, 7, [4, 6, 6], _named(seed)))


def residual_model(seed: int) -> MorphogeneticModel:
    return _grown(ResNetHost(5, 8, 2, 2, _named(seed)))


def patch_model(seed: int) -> MorphogeneticModel:
    return _grown(ViTHost(5, (2, 9, 9), 3, 8, 2, 3, _named(seed)))


def series_model(seed: int) -> MorphogeneticModel:
    """Convolutions, and what stands beside them, along one dimension."""
    with weights_from(_named(seed)):
        first = nn.Sequential(nn.Conv1d(2, 4, 5, stride=2, padding=2), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2))
        second = nn.Sequential(nn.Conv1d(4, 6, 3, padding="same", dilation=2), nn.ReLU())
        third = nn.Sequential(nn.Conv1d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm1d(6))
        network = nn.Sequential(first, second, third, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 5))
    slots = {"early": "0", "mid": "1", "late": "2"}
    return _grown(GraftedHost(network.double(), slots, torch.zeros(2, 2, 16, dtype=torch.float64)))


def _grown(host: Host) -> MorphogeneticModel:
    return MorphogeneticModel(host, slot_config=SlotConfig(blending_steps=5, cull_steps=4)).to(torch.float64)


def _named(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plant(body: MorphogeneticModel, slot: str, blueprint: str, blend: str, stage: SeedStage, seed: int) -> None:
    """A seed whose weights have all moved away from their start, in the given stage."""
    generator = torch.Generator().manual_seed(seed)
    body.germinate_seed(blueprint, f"{slot}-{seed}", slot, blend, generator)
    held = body.slots[slot]
    held.state.transition(SeedStage.TRAINING)
    for parameter in held.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    if stage is SeedStage.TRAINING:
        return
    held.start_blending(total_steps=5)
    held.step(2)
    if stage is SeedStage.CULLED:
        held.cull("test")
    if stage in (SeedStage.PROBATIONARY, SeedStage.FOSSILIZED):
        held.state.transition(SeedStage.PROBATIONARY)
    if stage is SeedStage.FOSSILIZED:
        held.state.transition(SeedStage.FOSSILIZED)
    held.prune()


def population(bodies, kind: str, **optimizer) -> Population:
    return Population(bodies, OptimizerConfig(**optimizer), kind=kind)


def data(count: int = 37, in_channels: int = 2, size: int = 9, classes: int = 5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, in_channels, size, size, generator=generator, dtype=dtype)
    y = torch.randint(classes, (count,), generator=generator)
    return x, y, torch.randperm(count, generator=generator)


def vectors(count: int = 37):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 7, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (count,), generator=generator), torch.randperm(count, generator=generator)


def series(count: int = 37):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, 16, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (count,), generator=generator), torch.randperm(count, generator=generator)


def tokens(count: int = 21, length: int = 5, vocab_size: int = 11):
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(vocab_size, (count, length + 1), generator=generator)
    return windows[:, :-1], windows[:, 1:], torch.randperm(count, generator=generator)


def state(bodies) -> dict[str, torch.Tensor]:
    return {
        f"{e}.{name}": tensor
        for e, body in enumerate(bodies)
        for name, tensor in body.state_dict().items()
        if isinstance(tensor, torch.Tensor)
    }


def reported(growth):
    """Each member's last report."""
    (reports,) = EpochRunner([growth]).reports()
    return reports


def stepped(growth, actions):
    """Reports and events of one epoch."""
    (result,) = EpochRunner([growth]).step([actions])
    return result


def scored(growth):
    """Every member's scores on the test split."""
    (scores,) = EpochRunner([growth]).test()
    return scores
