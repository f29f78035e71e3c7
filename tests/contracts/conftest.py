"""What the executable form of the contracts shares. Each file is one section of them."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from esper.kasmina.host import CNNHost, MorphogeneticModel
from esper.kasmina.slot import SeedSlot
from esper.leyline import SeedStage, TaskConfig

LIFE = (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED)
FALL = (SeedStage.CULLED, SeedStage.EMBARGOED, SeedStage.RESETTING, SeedStage.DORMANT)


@pytest.fixture
def features() -> Tensor:
    """[2, 8, 4, 4]"""
    return torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def slot() -> SeedSlot:
    """A slot with a seed in GERMINATED."""
    slot = SeedSlot("mid", channels=8, device="cpu")
    slot.germinate("conv_light", "seed-1", host_module=CNNHost())
    return slot


@pytest.fixture
def grown() -> Callable[..., MorphogeneticModel]:
    """A small image model whose slot "mid" holds a seed in the stage asked for."""

    def grow(stage: SeedStage | None = None, blend: str = "sigmoid", is_planted: bool = True) -> MorphogeneticModel:
        task = TaskConfig(topology="cnn", blending_steps=10)
        model = MorphogeneticModel(
            host=CNNHost(channels=(4, 8, 8)), device="cpu", slots=["early", "mid", "late"], task_config=task
        )
        if is_planted:
            model.germinate_seed(blueprint_id="conv_light", seed_id="s", slot="mid", blend_algorithm_id=blend)
            if stage is not None:
                walk(model.slots["mid"], stage)
        return model

    return grow


def walk(slot: SeedSlot, stage: SeedStage) -> None:
    """Take a seed from GERMINATED to this stage: half-way through its blend, or down from there."""
    for step in LIFE if stage in LIFE else (*LIFE[:2], *FALL):
        if slot.state.stage is stage:
            return
        if step is SeedStage.BLENDING:
            slot.start_blending(total_steps=10)
            slot.step(5)
        else:
            slot.state.transition(step)


@pytest.fixture
def compiled() -> Iterator[Callable]:
    """`torch.compile(..., fullgraph=True)` without code generation: whether it is one graph is all that is asked."""
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=64):  # a life has more stages than the default allows graphs
        yield lambda what: torch.compile(what, fullgraph=True, backend="eager")
    torch.compiler.reset()
