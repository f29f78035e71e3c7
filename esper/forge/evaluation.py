"""How well a language model predicts text, window by window."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.checks import in_range, one_of
from esper.errors import ForgeError
from esper.forge.language_model import LanguageModel
from esper.nissa.statistics import Interval, paired_difference
from esper.tasks.text.windows import every_window

if TYPE_CHECKING:
    from esper.tasks.text.corpus import Corpus

SPLITS = ("val", "test")  # training text is no measure


@dataclass(frozen=True, slots=True)
class WindowScores:
    """Sums over each window, [N] float64 on the CPU.

    nats: cross-entropy. targets: tokens predicted. bytes: of text that they stand for. hits: of which the likeliest
    token was the right one.
    """

    nats: Tensor
    targets: Tensor
    bytes: Tensor
    hits: Tensor

    @classmethod
    def pooled(cls, parts: Iterable["WindowScores"]) -> "WindowScores":
        """Those of several texts as if they were one."""
        parts = list(parts)
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def bits_per_byte(self) -> float:
        """Cross-entropy in bits, by bytes of text."""
        return float(self.nats.sum() / self.bytes.sum()) / math.log(2)

    @property
    def nats_per_token(self) -> float:
        """Cross-entropy in nats, by tokens."""
        return float(self.nats.sum() / self.targets.sum())

    @property
    def top1(self) -> float:
        """Share of tokens whose likeliest prediction was right."""
        return float(self.hits.sum() / self.targets.sum())

    def window_bits_per_byte(self) -> Tensor:
        """Of each window, in bits a byte of a mean window, so that their mean is `bits_per_byte`. Returns: [N]."""
        return self.nats / self.bytes.mean() / math.log(2)

    def difference(self, other: "WindowScores") -> Interval:
        """Bits per byte of this model less those of another on the same windows, with its 95% interval over windows.

        Raises: EsperError where the windows are not as many.
        """
        return paired_difference(self.window_bits_per_byte().tolist(), other.window_bits_per_byte().tolist())


def mean_bits_per_byte(scores: Mapping[str, WindowScores]) -> float:
    """A mean over domains, each as much as any other."""
    return sum(score.bits_per_byte for score in scores.values()) / len(scores)


def window_losses(
    model: nn.Module, stream: Tensor, length: int, batch: int = 64, token_bytes: Tensor | None = None
) -> WindowScores:
    """Scores of all whole windows of a text, which follow each other without overlap; each begins without a past.

    Args:
        model: tokens [B, T] -> logits [B, T, V].
        stream: [L] tokens.
        length: T, of a window.
        batch: windows at a time.
        token_bytes: [V], how many bytes each token stands for; None: as the model's own tokenizer says.

    Raises: ForgeError where the text is shorter than a window and a token, or nobody says how long tokens are.
    """
    in_range("length", length, 1)
    in_range("batch", batch, 1)
    if token_bytes is None:
        if not isinstance(model, LanguageModel):
            raise ForgeError(f"{type(model).__name__} has no tokenizer: give window_losses token_bytes=")
        token_bytes = model.tokenizer.token_bytes
    if len(stream) <= length:
        raise ForgeError(f"{len(stream)} tokens are no window of {length} and the token after it: give more text")
    return score_windows(model, *every_window(stream, length), token_bytes, batch)


def score_windows(model: nn.Module, x: Tensor, y: Tensor, token_bytes: Tensor, batch: int = 64) -> WindowScores:
    """Scores of windows. Args: x, y: tokens and those after them, [N, T]; the rest as `window_losses` has it."""
    device = next((parameter.device for parameter in model.parameters()), x.device)
    parts = [_scores(model, x[i : i + batch].to(device), y[i : i + batch].to(device)) for i in range(0, len(x), batch)]
    nats, hits = (torch.cat(part) for part in zip(*parts, strict=True))
    targets = torch.full((len(x),), float(x.shape[1]), dtype=torch.float64)
    return WindowScores(nats, targets, token_bytes.cpu()[y.cpu()].sum(1).double(), hits)


def evaluate_corpus(
    model: nn.Module, corpus: "Corpus", split: str, length: int, batch: int = 64
) -> dict[str, WindowScores]:
    """`window_losses` of every domain. Args: split: "val" or "test". Raises: as it does; ConfigError on the split."""
    one_of("split", split, SPLITS)
    token_bytes = corpus.tokenizer.token_bytes
    return {
        name: window_losses(model, getattr(domain, split), length, batch, token_bytes)
        for name, domain in corpus.domains.items()
    }


def _scores(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x, y [B, T] -> nats [B], hits [B]."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits = model(x)
            nats = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none").view(y.shape)
            hits = logits.argmax(-1) == y
            return nats.double().sum(1).cpu(), hits.sum(1).double().cpu()
    finally:
        model.train(was_training)
