"""What a generation of candidates is worth: merges of one trunk and its specialists, scored by bits per byte."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.forge.evomerge.batched_decoder import BatchedDecoder
from esper.forge.evomerge.groups import group_names, weights_by_name
from esper.forge.evomerge.methods import State, add_task_vectors
from esper.kasmina.decoder import Decoder
from esper.tasks.text.corpus import every_window

_BATCH = 16  # windows through one module at once: their features stay in the cache


@dataclass(frozen=True)
class Windows:
    """Windows of several domains, as many of each.

    x, y: tokens and the one after each, [W, T]. byte_counts: bytes of text that a window's targets stand for, [W].
    domains: their names, in the order in which the windows stand.
    """

    x: Tensor
    y: Tensor
    byte_counts: Tensor
    domains: tuple[str, ...]

    @classmethod
    def spread(cls, streams: Mapping[str, Tensor], length: int, count: int, token_bytes: Tensor) -> "Windows":
        """At most `count` windows of each domain, evenly spaced over its stream of tokens."""
        drawn = [every_window(stream, length) for stream in streams.values()]
        count = min(count, *(len(x) for x, _ in drawn))
        places = [torch.linspace(0, len(x) - 1, count).long() for x, _ in drawn]
        x = torch.cat([x[place] for (x, _), place in zip(drawn, places, strict=True)])
        y = torch.cat([y[place] for (_, y), place in zip(drawn, places, strict=True)])
        return cls(x, y, token_bytes[y].sum(1), tuple(streams))

    def bits_per_byte(self, nats: Tensor) -> Tensor:
        """Of each domain. Args: nats [..., W]. Returns: [..., domains]."""
        shape = (len(self.domains), -1)
        return nats.double().unflatten(-1, shape).sum(-1) / self.byte_counts.view(shape).sum(-1) / math.log(2)


class MergeEvaluator:
    """Merges trunk + sum over experts of weight * task vector, a generation of them at once.

    Plain decoders are merged and run as one program (`BatchedDecoder`); those that have grown, model by model.

    Args:
        network: of the architecture; it is copied. vectors: of `task_vectors` or what a method makes of them. groups:
        name of a tensor -> its layer group.
    """

    def __init__(
        self, network: nn.Module, trunk: State, vectors: State, groups: Mapping[str, str], windows: Windows
    ) -> None:
        self._network = copy.deepcopy(network).eval()
        self._trunk, self._vectors, self._groups, self.windows = trunk, vectors, groups, windows
        self._group_count = len(group_names(groups))
        self._program = BatchedDecoder(network) if isinstance(network, Decoder) and network.caches else None
        if self._program is not None:
            first = {name: tensor[None].float() for name, tensor in trunk.items()}
            self._base = self._program.to_layout(first)
            self._deltas = self._program.to_layout({name: tensor.float() for name, tensor in vectors.items()})

    def fitness(self, points: Tensor) -> Tensor:
        """Mean over domains of bits per byte. Args: points [K, E * G]. Returns: [K] float64."""
        return self.windows.bits_per_byte(self.window_nats(points)).mean(-1)

    def window_nats(self, points: Tensor) -> Tensor:
        """Summed cross-entropy of each window under each candidate. Args: points [K, E * G]. Returns: [K, W]."""
        if self._program is None:
            return self.window_nats_one_by_one(points)
        weights = points.view(len(points), -1, self._group_count).to(torch.float32)
        by_name = weights_by_name(weights, self._groups)
        merged = {
            name: torch.addmm(base.flatten(1), by_name[name], self._deltas[name].flatten(1)).view(-1, *base.shape[1:])
            for name, base in self._base.items()
        }
        return self._program.window_nats(merged, self.windows.x, self.windows.y)

    def window_nats_one_by_one(self, points: Tensor) -> Tensor:
        """The same, each candidate merged, loaded and run for itself."""
        rows = []
        for point in points:
            load_state(self._network, self.merged(point))
            rows.append(window_nats(self._network, self.windows))
        return torch.stack(rows)

    def merged(self, point: Tensor) -> State:
        """The state dict of one candidate. Args: point [E * G]."""
        weights = weights_by_name(point.view(-1, self._group_count), self._groups)
        return add_task_vectors(self._trunk, self._vectors, weights)


@torch.inference_mode()
def window_nats(network: nn.Module, windows: Windows) -> Tensor:
    """Summed cross-entropy of each window, [W]."""
    nats = []
    for x, y in zip(windows.x.split(_BATCH), windows.y.split(_BATCH), strict=True):
        logits = network(x)
        losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
        nats.append(losses.view(y.shape).sum(1))
    return torch.cat(nats)


def state_of(network: nn.Module) -> State:
    """What is merged of a network: its parameters, tied ones once."""
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


@torch.no_grad()
def load_state(network: nn.Module, state: State) -> None:
    """Write a state of `state_of` into a network of its architecture."""
    for name, parameter in network.named_parameters():
        parameter.copy_(state[name])
