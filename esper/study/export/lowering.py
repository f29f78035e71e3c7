"""A member as the plain arithmetic of its forward pass: what keeps a seed from its host in training is left out."""

from torch import Tensor, nn

from esper.kasmina import MorphogeneticModel
from esper.kasmina.attention import CausalSelfAttention
from esper.kasmina.base import Host
from esper.kasmina.isolation import blend_update
from esper.kasmina.slot import SeedSlot
from esper.leyline import SeedStage


class Blended(nn.Module):
    """A seed's share of the features, fixed at its `alpha`."""

    def __init__(self, slot: SeedSlot) -> None:
        super().__init__()
        assert slot.state is not None
        self.seed, self.alpha = slot.seed, slot.alpha
        self.gate = slot.gate if slot.state.has_gate else None

    def forward(self, features: Tensor) -> Tensor:
        """Args: features [B, ...]. Returns: the same shape."""
        assert self.seed is not None
        alpha = self.alpha if self.gate is None else self.gate(features, self.alpha)
        return features + blend_update(features, self.seed(features), alpha)


def lowered(model: MorphogeneticModel) -> Host:
    """The member's host on the CPU, in evaluation mode, with fixed modules for slots; the model is used up by it."""
    host = model.host.cpu().eval()
    for position, slot in list(host.slots.items()):
        if isinstance(slot, SeedSlot):
            is_seen = slot.computes and not (slot.stage is SeedStage.TRAINING and slot.alpha == 0.0)
            host.slots[position] = Blended(slot) if is_seen else nn.Identity()
    for module in host.modules():
        if isinstance(module, CausalSelfAttention):  # flex attention is the same, in operations that few programs have
            module.__class__ = CausalSelfAttention
    for tensor in (*host.parameters(), *host.buffers()):
        tensor.data = tensor.detach().clone()  # views of stacks would bring all members along
    return host
