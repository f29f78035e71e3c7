"""Training a language model on a mix of domains: step by step, to be gone on with bit for bit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.checkpoint import Checkpoint, read_bundle, restoring, write_bundle
from esper.checkpoint.bundle import bundle_paths
from esper.forge.budget import TrainingBudget
from esper.forge.phase import Interrupted
from esper.forge.training_state import TrainingState
from esper.simic.on_policy.schedules import schedule
from esper.tasks.task import named_generator
from esper.tasks.text.corpus import draw_windows

if TYPE_CHECKING:
    from esper.forge.phase import PhaseContext
    from esper.tasks.text.corpus import Corpus

CHECKPOINT = "training"
WARMUP_SHARE = 0.05
FINAL_RATE_SHARE = 0.05
BETAS = (0.9, 0.95)


class Batches(Protocol):
    """What training draws from; `generator` is all that its draws depend on."""

    generator: torch.Generator

    def draw(self) -> tuple[Tensor, Tensor]:
        """Tokens [B, T] and the token after each [B, T], int64; -100 where none is to be learned."""
        ...


class MixedBatches:
    """Minibatches whose windows come from domains in fixed shares.

    shares: domain -> its share; they are brought to a sum of one. `generator` is all that it depends on.
    """

    def __init__(
        self, corpus: "Corpus", shares: Mapping[str, float], batch_size: int, length: int, name: str, seed: int
    ):
        self._streams = [corpus.domains[domain].train for domain in shares]
        self._shares = torch.tensor(list(shares.values()), dtype=torch.float64)
        self._batch_size, self._length = batch_size, length
        self.generator = named_generator(seed, f"batches/{name}")

    def draw(self) -> tuple[Tensor, Tensor]:
        """Tokens [B, T] and the token after each [B, T], int64."""
        picked = torch.multinomial(self._shares, self._batch_size, replacement=True, generator=self.generator)
        counts = picked.bincount(minlength=len(self._streams)).tolist()
        drawn = [
            draw_windows(stream, count, self._length, self.generator)
            for stream, count in zip(self._streams, counts, strict=True)
            if count
        ]
        return torch.cat([x for x, _ in drawn]), torch.cat([y for _, y in drawn])


def even_text(context: "PhaseContext", batch_size: int, length: int, name: str) -> MixedBatches:
    """Windows of all domains alike. Args: name: see `MixedBatches`."""
    even = dict.fromkeys(context.corpus.domains, 1.0)
    return MixedBatches(context.corpus, even, batch_size, length, name, context.seed)


def next_token_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy in nats a token; x, y [B, T]."""
    logits = model(x)
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.reshape(-1))


class LanguageTraining:
    """One model on its way through its budget.

    Args:
        name: of what is trained ("trunk"): its batches follow from it and the seed, its checkpoint is named after it.
        folder: where the checkpoint is kept, from which it goes on where there is one; None: nothing is kept.
        loss: (model, x, y) -> mean loss; of the next token unless it is given.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        budget: TrainingBudget,
        name: str,
        folder: Path | None = None,
        loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = next_token_loss,
    ) -> None:
        self.model, self.batches, self.budget, self.name = model, batches, budget, name
        self._loss, self.step = loss, 0
        self._path = None if folder is None else folder / f"{name}_{CHECKPOINT}"
        parameters = dict(model.named_parameters())  # tied ones once
        self._optimizer = torch.optim.AdamW(
            parameters.values(), budget.learning_rate, BETAS, weight_decay=budget.weight_decay, fused=True
        )
        self._state = TrainingState(parameters, [self._optimizer], batches.generator)
        warmup = int(WARMUP_SHARE * budget.steps)
        self._rate = schedule(
            "warmup_cosine", budget.learning_rate, FINAL_RATE_SHARE * budget.learning_rate, budget.steps, warmup
        )
        if self._path is not None and bundle_paths(self._path)[1].exists():
            self._restore()

    def run(self, context: "PhaseContext", checkpoint_every: int = 200, log_every: int = 20) -> nn.Module:
        """Train to the end of the budget. Raises Interrupted, once a checkpoint is written, where that is asked for."""
        self.model.train()
        while self.step < self.budget.steps:
            loss, norm = self._one_step()
            if self.step % log_every == 0 or self.step == self.budget.steps:
                context.log(self.step, **{f"{self.name}_loss": loss.item(), f"{self.name}_gradient_norm": norm.item()})
                context.progress(self.step, self.budget.steps, self.name)
            is_last = self.step == self.budget.steps
            if self._path is not None and (self.step % checkpoint_every == 0 or is_last or context.should_stop()):
                self._save()
            if not is_last and context.should_stop():
                raise Interrupted(self.name)
        return self.model.eval()

    def _one_step(self) -> tuple[Tensor, Tensor]:
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        x, y = self.batches.draw()
        self._optimizer.zero_grad()
        loss = self._loss(self.model, x, y)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.budget.max_grad_norm)
        self._optimizer.step()
        self.step += 1
        return loss.detach(), norm

    def _save(self) -> None:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_bundle(self._path, Checkpoint(tensors=self._state.tensors(), kind="language_training", epoch=self.step))

    def _restore(self) -> None:
        assert self._path is not None
        checkpoint = read_bundle(self._path)
        with restoring(checkpoint):
            self._state.restore(checkpoint.tensors)
            self.step = checkpoint.epoch or 0
