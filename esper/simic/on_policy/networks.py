"""Networks that choose and judge at once."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

KINDS = ("mlp", "lstm")
_ROOT_2 = math.sqrt(2)


class ActorCritic(nn.Module):
    """Logits of the choices, and the value of the observation in units of reward.

    "mlp": two trunks of tanh layers, one for each. "lstm": tanh layers and one LSTM that both share; its memory [B, 2H]
    (what it puts out, and its cells) is handed from step to step by the caller. Orthogonal weights; the policy starts
    out even, or as `bias` says.

    Values are learned on a scale of their own, which `rescale_values` moves without changing what is predicted.
    Source: van Hasselt et al. 2016, "Learning values across many orders of magnitude".

    Args:
        features, outputs: F of observations and N of logits.
        hidden: width of each layer; for "lstm" the last is the LSTM's.
        bias: [N], of the logits.
    """

    value_mean: Tensor
    value_scale: Tensor

    def __init__(
        self,
        features: int,
        outputs: int,
        hidden: Sequence[int] = (64, 64),
        kind: str = "mlp",
        *,
        generator: torch.Generator,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.memory_size = 2 * hidden[-1] if kind == "lstm" else 0
        layers = hidden[:-1] if kind == "lstm" else hidden
        self.actor = _trunk(features, layers, generator)
        self.critic = _trunk(features, layers, generator) if kind == "mlp" else nn.Identity()
        if kind == "lstm":
            self.memory = _lstm(hidden[-2] if len(hidden) > 1 else features, hidden[-1], generator)
        self.policy_head = _linear(hidden[-1], outputs, 0.01, generator)
        self.value_head = _linear(hidden[-1], 1, 0.1, generator)
        if bias is not None:
            with torch.no_grad():
                self.policy_head.bias.copy_(bias)
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_scale", torch.ones(()))

    def forward(self, observations: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits [B, N], values [B] and the memory after this step. Args: observations [B, F]; memory [B, 2H]."""
        features = self.actor(observations)
        if memory is None or not self.memory_size:
            judged = self.critic(observations)
        else:
            features, cells = self.memory(features, memory.chunk(2, 1))
            judged, memory = features, torch.cat([features, cells], 1)
        return self.policy_head(features), self._values(judged), memory

    def sequence(
        self, observations: Tensor, starts: Tensor | None = None, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [T, B, N] and values [T, B] of whole sequences.

        Args: observations [T, B, F]; starts [T, B]: an episode begins here, so the memory is cleared before it;
        memory [B, 2H] before the first step. Both are needed by "lstm" alone.
        """
        features = self.actor(observations)
        if not self.memory_size:
            return self.policy_head(features), self._values(self.critic(observations))
        assert starts is not None and memory is not None
        outputs, cells = memory.chunk(2, 1)
        kept = (~starts).to(features.dtype).unsqueeze(-1)
        recalled = []
        for step, keep in zip(features, kept, strict=True):
            outputs, cells = self.memory(step, (outputs * keep, cells * keep))
            recalled.append(outputs)
        features = torch.stack(recalled)
        return self.policy_head(features), self._values(features)

    def first_memory(self, batch: int) -> Tensor | None:
        """The memory [B, 2H] at an episode's beginning; None where there is none to hand on."""
        return self.value_mean.new_zeros(batch, self.memory_size) if self.memory_size else None

    @torch.no_grad()
    def rescale_values(self, mean: float, scale: float) -> None:
        """Learn values on this scale from now on; what is predicted stays as it is."""
        head = self.value_head
        head.weight.mul_(self.value_scale / scale)
        head.bias.copy_((head.bias * self.value_scale + self.value_mean - mean) / scale)
        self.value_mean.fill_(mean)
        self.value_scale.fill_(scale)

    def _values(self, judged: Tensor) -> Tensor:
        return torch.addcmul(self.value_mean, self.value_head(judged).squeeze(-1), self.value_scale)


def _trunk(features: int, widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip([features, *widths], widths, strict=False):
        layers += [_linear(before, after, _ROOT_2, generator), nn.Tanh()]
    return nn.Sequential(*layers)


def _linear(before: int, after: int, gain: float, generator: torch.Generator) -> nn.Linear:
    layer = skip_init(nn.Linear, before, after)  # the usual initialisation would draw from torch's own stream
    nn.init.orthogonal_(layer.weight, gain, generator)
    nn.init.zeros_(layer.bias)
    return layer


def _lstm(before: int, after: int, generator: torch.Generator) -> nn.LSTMCell:
    cell = skip_init(nn.LSTMCell, before, after)
    for weight in (cell.weight_ih, cell.weight_hh):
        for gate in weight.chunk(4):
            nn.init.orthogonal_(gate, 1.0, generator)
    nn.init.zeros_(cell.bias_ih)
    nn.init.zeros_(cell.bias_hh)
    with torch.no_grad():
        cell.bias_ih.chunk(4)[1].fill_(1.0)  # remembers until it learns to forget
    return cell
