"""Writing on from many prompts at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import ForgeError
from esper.kasmina.rotary import KeyValueCache

_DROP_SHARE = 0.25  # of the rows: once so many have ended, they are no longer computed


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

    All are gone on with together, column by column: while a longer prompt is still read, what follows a shorter one is
    written already. Rows that have ended are dropped.

    Args:
        network: tokens [B, T] -> logits [B, T, V]; its cache of keys and values is used where it has one.
        prompts: tokens of each, at least one.
        temperature: what logits are divided by before one is drawn; 0: always the likeliest.
        generator: of what is drawn; on the CPU.

    Raises: ForgeError where a prompt leaves no room for a token of the network's context.
    """
    if not prompts:
        return []
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    longest, room = int(lengths.max()), int(getattr(network, "block_size", 1 << 30))
    if longest >= room:
        raise ForgeError(f"a prompt of {longest} tokens leaves no room for an answer: the model reads {room}")
    ends = (lengths + max_new_tokens).clamp(max=room)
    tokens = torch.zeros(len(prompts), int(ends.max()), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    was_training = network.training
    network.eval()
    _write_on(network, tokens, lengths, ends, stop, temperature, generator)
    network.train(was_training)
    rows = [row[length:end] for row, length, end in zip(tokens.tolist(), lengths.tolist(), ends.tolist(), strict=True)]
    return [row[: row.index(stop) + 1] if stop in row else row for row in rows]


def _write_on(
    network: Any,
    tokens: Tensor,
    lengths: Tensor,
    ends: Tensor,
    stop: int,
    temperature: float,
    generator: torch.Generator | None,
) -> None:
    """Fill tokens [B, T] in from each row's length to its end; what comes after `stop` means nothing."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    cache = network.new_cache() if getattr(network, "caches", False) else None
    can_drop = cache is None or isinstance(cache, KeyValueCache)
    rows, is_done, is_read = torch.arange(len(tokens)), torch.zeros(len(tokens), dtype=torch.bool), 0
    for place in range(int(lengths.min()), tokens.shape[1]):
        if cache is None:
            logits = network(tokens[rows, :place].to(device))
        else:
            logits = network.extend(tokens[rows, is_read:place].to(device), cache)
        picked = _pick(logits[:, -1].float().cpu(), temperature, generator)
        is_written = place >= lengths[rows]
        tokens[rows, place] = torch.where(is_written, picked, tokens[rows, place])
        is_done |= (is_written & (picked == stop)) | (place + 1 >= ends[rows])
        is_read, done = place, int(is_done.sum())
        if done == len(rows):
            return
        if can_drop and done >= _DROP_SHARE * len(rows):
            rows, is_left = rows[~is_done], ~is_done
            if cache is not None:
                cache.keep(is_left.to(device))
            is_done = is_done[is_left]


def _pick(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """logits [B, V] -> a token of each, [B]."""
    if temperature == 0:
        return logits.argmax(-1)
    # The first token up to which there is more than a share drawn evenly: for few rows faster than torch.multinomial.
    upto = (logits / temperature).double().softmax(-1).cumsum(-1)
    share = torch.rand(len(upto), 1, dtype=torch.float64, generator=generator) * upto[:, -1:]
    return torch.searchsorted(upto, share, right=True)[:, 0].clamp(max=upto.shape[-1] - 1)
