"""Writing on from many prompts at once."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import ForgeError


@torch.inference_mode()
def sample(
    network: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """What a network writes after each prompt, up to and with `stop`, where it comes to it in time.

    Prompts of one length are gone on with together, and each as if it were alone.

    Args:
        network: tokens [B, T] -> logits [B, T, V]; its cache of keys and values is used where it has one.
        prompts: tokens of each, at least one.
        temperature: what logits are divided by before one is drawn; 0: always the likeliest.
        generator: of what is drawn; on the CPU.

    Raises: ForgeError where a prompt leaves no room for a token of the network's context.
    """
    longest, room = max(map(len, prompts), default=0), int(getattr(network, "block_size", 1 << 30))
    if longest >= room:
        raise ForgeError(f"a prompt of {longest} tokens leaves no room for an answer: the model reads {room}")
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        by_length[len(prompt)].append(place)
    written: list[list[int]] = [[] for _ in prompts]
    was_training = network.training
    network.eval()
    for length, places in by_length.items():
        tokens = torch.tensor([list(prompts[place]) for place in places], dtype=torch.int64)
        rows = _write_on(network, tokens, min(max_new_tokens, room - length), stop, temperature, generator)
        for place, row in zip(places, rows.tolist(), strict=True):
            written[place] = row[: row.index(stop) + 1] if stop in row else row
    network.train(was_training)
    return written


def _write_on(
    network: Any, tokens: Tensor, count: int, stop: int, temperature: float, generator: torch.Generator | None
) -> Tensor:
    """tokens [B, T] -> those that follow [B, N], N at most `count`; what comes after `stop` means nothing."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    cache = network.new_cache() if getattr(network, "caches", False) else None
    read = unread = tokens.to(device)
    is_done = torch.zeros(len(tokens), dtype=torch.bool)
    found: list[Tensor] = []
    for _ in range(count):
        logits = network(read) if cache is None else network.extend(unread, cache)
        picked = _pick(logits[:, -1].float().cpu(), temperature, generator)
        found.append(picked)
        is_done |= picked == stop
        if bool(is_done.all()):
            break
        unread = picked[:, None].to(device)
        read = torch.cat((read, unread), 1) if cache is None else unread
    return torch.stack(found, 1) if found else tokens.new_empty(len(tokens), 0)


def _pick(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """logits [B, V] -> a token of each, [B]."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
