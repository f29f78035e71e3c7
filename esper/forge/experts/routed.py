"""A network that is another one from where it has read enough: its router chooses among mixtures of experts."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from esper.forge.experts.layers import dense_copy
from esper.forge.experts.router import PrefixRouter
from esper.forge.experts.singular_values import SingularValues, mixed, put_in

WEIGHT_STEP = 0.5  # weights in a mixture are whole numbers of it
_BASE = -1  # in place of a network's number


class RoutedDecoder(nn.Module):
    """Exactly causal: what follows the token at place t depends on the first t + 1 tokens alone.

    After the first n tokens, for each stage n, the router chooses by the base's features of these n. From the logits
    after the n-th token on, up to the next stage, they are those of the chosen mixture, which reads the text from its
    beginning; before the first stage they are those of one mixture for all, the opening. So a text is read by the base
    as far as the last stage, by the opening as far as the first, and once by each mixture that is chosen on the way.

    Args:
        base: a decoder, plain or packed. experts: z - 1 of each, [K, R]. mixtures: the weights of each choice of the
        router in steps of WEIGHT_STEP, and last those of the opening, [M + 1, K] uint8; where all are zero, it is the
        base. stages: ascending, from 2.
    """

    experts: Tensor
    mixtures: Tensor
    numbers: Tensor

    def __init__(
        self, base: Any, experts: Tensor, mixtures: Tensor, router: PrefixRouter, stages: Sequence[int]
    ) -> None:
        super().__init__()
        self.base, self.router, self.stages = base, router, tuple(stages)
        self.register_buffer("experts", experts)
        self.register_buffer("mixtures", mixtures)
        self.block_size = base.block_size
        dense: Any = dense_copy(base)
        scaled = SingularValues(dense)
        rows = sorted({tuple(row) for row in mixtures.tolist() if any(row)})
        self.networks = nn.ModuleList()
        for row in rows:
            network: Any = copy.deepcopy(dense)
            put_in(network, scaled.weights(mixed(experts.unbind(), WEIGHT_STEP * torch.tensor(row))))
            network.embedding = base.embedding
            self.networks.append(network)
        numbers = [rows.index(tuple(row)) if any(row) else _BASE for row in mixtures.tolist()]
        self.register_buffer("numbers", torch.tensor(numbers), persistent=False)

    def architecture(self) -> dict[str, Any]:
        """Of the base: all mixtures have the same."""
        found: dict[str, Any] = self.base.architecture()
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token that follows each position. Args: tokens [B, T] int64. Returns: [B, T, V]."""
        length = tokens.shape[1]
        stages = [stage for stage in self.stages if stage <= length]
        head = stages[0] - 1 if stages else length
        first: Tensor = self.network(self.opening)(tokens[:, :head])
        if not stages:
            return first
        features = self.base.features(tokens[:, : stages[-1]])
        choices = torch.stack([self.choose(features[:, :stage]) for stage in stages], 1)
        spans = list(zip([stage - 1 for stage in stages], [*(stage - 1 for stage in stages[1:]), length], strict=True))
        logits = first.new_empty(*tokens.shape, first.shape[-1])
        logits[:, :head] = first
        for chosen in choices.unique(dim=0):
            rows = (choices == chosen).all(1).nonzero()[:, 0]
            for number in chosen.unique().tolist():
                found = self.network(number)(tokens[rows])  # whole: how far it is needed, only later tokens say
                for (start, stop), each in zip(spans, chosen.tolist(), strict=True):
                    if each == number:
                        logits[rows, start:stop] = found[:, start:stop]
        return logits

    def choose(self, features: Tensor) -> Tensor:
        """Args: features: the base's, of all tokens of a prefix, [B, n, C]. Returns: numbers of networks, [B]."""
        return self.numbers[self.router(features)]

    @property
    def opening(self) -> int:
        """The number of the network before the first stage."""
        return int(self.numbers[-1])

    def network(self, number: int) -> Any:
        """A mixture of experts, or the base, by what `choose` gives."""
        return self.base if number == _BASE else self.networks[number]

    @property
    def caches(self) -> bool:
        """See `Decoder.caches`."""
        return bool(self.base.caches)

    def new_cache(self) -> "RoutedCache":
        """See `Decoder.new_cache`."""
        return RoutedCache()

    def extend(self, tokens: Tensor, cache: "RoutedCache") -> Tensor:
        """See `Decoder.extend`; where the router chooses another network, that reads what was read so far."""
        if cache.tokens is None:
            cache.tokens = tokens[:, :0]
            cache.regroup(self, torch.full((len(tokens),), self.opening, device=tokens.device))
        start = cache.tokens.shape[1]
        cache.tokens = torch.cat((cache.tokens, tokens), 1)
        stop = cache.tokens.shape[1]
        switches = [stage - 1 for stage in self.stages if start <= stage - 1 < stop]
        edges = [start, *(place for place in switches if place > start), stop]
        parts = []
        for here, until in pairwise(edges):
            unread = here
            if here in switches:
                chosen = self.choose(self.base.features(cache.tokens[:, : here + 1]))
                unread = 0 if cache.regroup(self, chosen) else here
            found = cache.read(unread, until)
            parts.append(found[:, here - unread :])
        return torch.cat(parts, 1)


class RoutedCache:
    """What was read of some texts, and by which network each of them is gone on with."""

    def __init__(self) -> None:
        self.tokens: Tensor | None = None
        self._chosen: Tensor | None = None
        self._groups: list[tuple[Tensor, Any, Any]] = []

    def regroup(self, routed: RoutedDecoder, chosen: Tensor) -> bool:
        """Go on by the networks of these numbers [B]; whether any is another, and all of it is to be read anew."""
        if self._chosen is not None and torch.equal(chosen, self._chosen):
            return False
        self._chosen, self._groups = chosen, []
        for number in chosen.unique().tolist():
            network = routed.network(number)
            self._groups.append(((chosen == number).nonzero()[:, 0], network, network.new_cache()))
        return True

    def read(self, start: int, stop: int) -> Tensor:
        """Logits after the tokens from `start` to before `stop`, [B, N, V]."""
        assert self.tokens is not None
        logits: Tensor | None = None
        for rows, network, cache in self._groups:
            found = network.extend(self.tokens[rows, start:stop], cache)
            if logits is None:
                logits = found.new_empty(len(self.tokens), *found.shape[1:])
            logits[rows] = found
        assert logits is not None
        return logits
