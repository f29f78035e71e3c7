"""Training members one after another with their plain modules: the reference, and the choice where fusing loses."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esper.engine.groups import trained_stacks
from esper.engine.losses import member_losses
from esper.engine.stacks import ModuleStack
from esper.kasmina.host import MorphogeneticModel


class SequentialEngine:
    """Fills gradient stacks like the fused engine's, one member at a time; blends move on with every step."""

    def __init__(self, models: Sequence[MorphogeneticModel], stacks: Mapping[str, ModuleStack]) -> None:
        self.models = models
        self.stacks = stacks

    def gradients(self, x: Tensor, y: Tensor) -> tuple[dict[str, dict[str, Tensor]], Tensor, Tensor]:
        """One minibatch for all. x [N, C, H, W], y [N]. Returns gradients, losses [M], correct [M]."""
        gradients = {name: self.stacks[name].gradients() for name in trained_stacks(self.stacks, self.models)}
        torch._foreach_zero_([grad for named in gradients.values() for grad in named.values()])
        losses, correct = [], []
        for model in self.models:
            model.train()
            loss, right = member_losses(model(x).t().unsqueeze(0), y)
            loss.sum().backward()
            for slot in model.slots.values():
                slot.step()
            losses.append(loss.detach())
            correct.append(right)
        return gradients, torch.cat(losses), torch.cat(correct)

    @torch.no_grad()
    def logits(self, x: Tensor, members: Sequence[int], without: str | None = None) -> Tensor:
        """x [N, C, H, W] -> [len(members), K, N], with the seed of one slot left out if asked."""
        outputs = []
        for member in members:
            model = self.models[member].eval()
            slot = model.slots[without] if without is not None else None
            if slot is not None:
                slot.bypass = True
            outputs.append(model(x).t())
            if slot is not None:
                slot.bypass = False
        return torch.stack(outputs)
