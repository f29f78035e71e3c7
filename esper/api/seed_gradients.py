"""Gradients of seeds beside their network's, as a training loop leaves them behind."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from esper.errors import EsperError
from esper.kasmina import MorphogeneticModel
from esper.kasmina.state import SeedState
from esper.leyline import SeedStage
from esper.leyline.gradients import gradient_statistics

_LEARNING = (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY)
Figures = Tensor  # [5]: norm beside the host's, mean norm, health, whether vanishing, whether exploding


def seed_gradients(model: MorphogeneticModel) -> dict[str, Figures]:
    """Slot -> figures of the seed's last gradients, for seeds that learn; nothing waits for the device.

    Raises: EsperError where such a seed has no gradient.
    """
    found = {}
    host: Tensor | None = None
    for name, slot in model.slots.items():
        if slot.stage not in _LEARNING or slot.seed is None:
            continue
        gradients = _gradients(slot.seed.parameters())
        if not gradients:
            raise EsperError(
                f"Grower.step: the seed in {name!r} has no gradient\n  call it after backward() and optimizer.step(), "
                "and before zero_grad()"
            )
        if host is None:
            own = {id(parameter) for parameter in model.get_seed_parameters()}
            others = _gradients(parameter for parameter in model.parameters() if id(parameter) not in own)
            host = get_total_norm(others) if others else gradients[0].new_zeros(())
        of_seed = gradient_statistics(torch.stack([gradient.norm() for gradient in gradients])[:, None])
        columns = (of_seed.total_norm / (host + 1e-12), of_seed.mean_norm, of_seed.health)
        flags = (of_seed.has_vanishing, of_seed.has_exploding)
        found[name] = torch.cat([*columns, *(flag.to(gradients[0].dtype) for flag in flags)])
    return found


def note(state: SeedState, figures: Sequence[float], epoch: int, epochs: int) -> None:
    """Put a seed's figures where gates and controllers look for them."""
    ratio, norm, health, vanishing, exploding = figures
    state.is_healthy &= math.isfinite(norm)
    state.metrics.seed_gradient_norm_ratio = ratio if math.isfinite(ratio) else 0.0
    norm = norm if math.isfinite(norm) else 0.0
    state.sync_telemetry(norm, health, bool(vanishing), bool(exploding), epoch, epochs)


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
