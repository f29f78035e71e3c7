"""The canary: a fixed probe and the logits that it gave, by which a model that was read is known to be the one written.

Checksums tell that the bytes are those that were written; the canary, that they still compute the same.
"""

import base64
import binascii
import platform
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper.errors import CheckpointError
from esper.tasks.task import named_generator

LENGTH = 64  # tokens
TOLERANCE = 1e-5  # on the machine and thread count that wrote it; of the largest logit, where that is above one
TOLERANCE_ELSEWHERE = 1e-3  # of the largest logit
LEAST_SAME_TOP1 = 62 / 64


def take_canary(network: nn.Module, vocab_size: int) -> dict[str, Any]:
    """A network's answer to the probe, as plain values; logits as base64 of float32 [T, V]."""
    length = min(LENGTH, int(getattr(network, "block_size", LENGTH)))
    tokens = torch.randint(vocab_size, (length,), generator=named_generator(0, "forge/canary")).tolist()
    logits = _answer(network, tokens).numpy().astype("<f4")
    encoded = base64.b64encode(logits.tobytes()).decode()
    return {"tokens": tokens, "logits": encoded, "shape": list(logits.shape), **_here()}


@torch.inference_mode()
def check_canary(network: nn.Module, canary: dict[str, Any]) -> None:
    """Raise CheckpointError where the network answers the probe otherwise than was written."""
    try:
        tokens, (length, vocab_size) = canary["tokens"], canary["shape"]
        raw = np.frombuffer(base64.b64decode(canary["logits"], validate=True), "<f4")
        expected = torch.from_numpy(raw.reshape(length, vocab_size).copy())
        if not len(tokens) == length > 0 or not all(type(t) is int and 0 <= t < vocab_size for t in tokens):
            raise ValueError("tokens")
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise CheckpointError("its canary is no probe with logits") from error
    found = _answer(network, tokens)
    if found.shape != expected.shape:
        raise CheckpointError(
            f"its canary has logits {list(expected.shape)}, and the network gives {list(found.shape)}"
        )
    peak = expected.abs().max().item()
    off = (found - expected).abs().max().item()
    if all(canary.get(key) == value for key, value in _here().items()):
        if not off <= TOLERANCE * max(1.0, peak):
            raise CheckpointError(
                f"its canary does not reproduce: logits are off by {off:.2g}; it is not what was saved"
            )
        return
    same = (found.argmax(-1) == expected.argmax(-1)).float().mean().item()
    if not off <= TOLERANCE_ELSEWHERE * peak or same < LEAST_SAME_TOP1:
        raise CheckpointError(
            f"its canary does not reproduce: logits are off by {off:.2g} of {peak:.2g}, "
            f"{100 * same:.0f}% of the likeliest tokens are the same; it is not what was saved"
        )


@torch.inference_mode()
def _answer(network: nn.Module, tokens: list[int]) -> Tensor:
    return network(torch.tensor([tokens]))[0].float()


def _here() -> dict[str, Any]:
    """What the last bits of a result depend on."""
    machine = {"cpu": _cpu(), "architecture": platform.machine(), "torch": str(torch.__version__)}
    return {"machine": machine, "threads": torch.get_num_threads()}


def _cpu() -> str:
    with suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        return next(line for line in file if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor()
