"""Text as windows of tokens, and what follows each token."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from esper.errors import TaskError
from esper.tasks.settings import BytesConfig
from esper.tasks.task import Task
from esper.tasks.text.tokenizer import Tokenizer

BYTE_VALUES = 256


def draw_windows(stream: Tensor, count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows that begin anywhere in a text.

    Args: stream: [L] tokens. Returns: tokens, and the one after each, [count, length] int64.
    """
    starts = torch.randint(len(stream) - length, (count,), generator=generator, device=generator.device)
    return _windows(stream, starts.to(stream.device), length)


def every_window(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """All whole windows that follow each other without overlap.

    Args: stream: [L] tokens. Returns: tokens, and the one after each, [(L - 1) // length, length] int64.
    """
    return _windows(stream, torch.arange(0, len(stream) - length, length, device=stream.device), length)


def build_windows_task(
    settings: BytesConfig,
    texts: tuple[bytes, bytes, bytes],
    device: torch.device,
    tokenizer: Tokenizer | None = None,
) -> Task:
    """A task on the texts of training, validation and test split.

    Each epoch draws windows anywhere in the training text; all other windows follow each other without overlap.

    Args: tokenizer: None: a token is a byte, and there are no others.

    Raises:
        TaskError: a text is shorter than one window and the token after it.
    """
    length = settings.block_size
    streams = [_stream(text, tokenizer) for text in texts]
    what = "bytes" if tokenizer is None else "tokens"
    for key, stream in zip(("training", "validation", "test"), streams, strict=True):
        if len(stream) <= length:
            raise TaskError(
                f"task={settings.name}: {len(stream)} {what} to make a {key} split of, and a window takes "
                f"task.block_size + 1 = {length + 1}; a longer text or a smaller task.block_size will do."
            )
    train, val, test = streams
    return build_streams_task(settings, [(train, val, test)], device, tokenizer)


def build_streams_task(
    settings: BytesConfig,
    domains: Sequence[tuple[Tensor, Tensor, Tensor]],
    device: torch.device,
    tokenizer: Tokenizer | None,
) -> Task:
    """A task on text of several domains; an epoch draws as many windows from each, and no window spans two.

    Args: domains: of each, its training, validation and test split [L], all longer than a window.
    """
    length, count = settings.block_size, settings.epoch_windows
    splits = [[stream.to(device) for stream in split] for split in zip(*domains, strict=True)]
    streams = splits[0]
    shares = [count // len(streams) + (place < count % len(streams)) for place in range(len(streams))]

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = [draw_windows(stream, share, length, generator) for stream, share in zip(streams, shares, strict=True)]
        return _joined(drawn)

    (train_x, train_y), (val_x, val_y), (test_x, test_y) = (
        _joined([every_window(stream, length) for stream in split]) for split in splits
    )
    return Task(
        name=settings.name,
        num_outputs=BYTE_VALUES if tokenizer is None else tokenizer.vocab_size,
        input_shape=(length,),
        train_x=train_x,
        train_y=train_y,
        val_x=val_x,
        val_y=val_y,
        test_x=test_x,
        test_y=test_y,
        draw=draw,
        epoch_size=count,
        tokenizer_sha256=None if tokenizer is None else tokenizer.sha256,
        bytes_per_label=1.0 if tokenizer is None else _mean_bytes(test_y, tokenizer),
    )


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    inputs, labels = zip(*parts, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def _stream(text: bytes, tokenizer: Tokenizer | None) -> Tensor:
    return torch.from_numpy(np.frombuffer(text, np.uint8).copy()) if tokenizer is None else tokenizer.encode_bytes(text)


def _mean_bytes(labels: Tensor, tokenizer: Tokenizer) -> float:
    return float(tokenizer.token_bytes.to(labels.device)[labels].double().mean())


def _windows(text: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """text [L], starts [N] -> tokens [N, T] and the one after each [N, T], int64."""
    window = text[starts[:, None] + torch.arange(length + 1, device=text.device)].long()
    return window[:, :-1].contiguous(), window[:, 1:].contiguous()
