"""REINFORCE with a learned baseline: a model learns to think by whether its answers are right."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper.checkpoint import Checkpoint, read_bundle, restoring, write_bundle
from esper.checkpoint.bundle import bundle_paths
from esper.errors import DivergedError, ForgeError
from esper.forge.examples import think_tokens
from esper.forge.phase import Interrupted, nothing
from esper.forge.quietstar.config import LR_SCHEDULES, RLConfig
from esper.forge.quietstar.episodes import Episodes, known_tokens, longest_answer, rewards_of, think_aloud
from esper.forge.quietstar.policy_gradient import Baseline, episode_losses
from esper.forge.training import BETAS, FINAL_RATE_SHARE, Batches, next_token_loss
from esper.forge.training_state import TrainingState, by_prefix
from esper.nissa.statistics import unpaired_difference
from esper.simic.on_policy.early_stopping import EarlyStopping
from esper.simic.on_policy.schedules import schedule
from esper.tasks.procedural import Problem
from esper.tasks.task import named_generator
from esper.tasks.text.tokenizer import Tokenizer, get_tokenizer

CHECKPOINT = "reinforcement"
_STOPPING, _REWARDS = "stopping.", "rewards"
_FIRST_EPISODES, _FIRST_STEPS = 256, 200  # that the baseline is fitted on, and in, before the first gradient step


class REINFORCETrainer:
    """Teaches a model to think before it answers; see `RLConfig` for how.

    The reference that it must not leave far behind is a frozen copy, taken here. What validated best is kept as a copy,
    and is what the model is in the end. A training that is stopped and goes on from its checkpoint ends bit for bit
    where it would have.

    Args:
        model: trained in place: a network [B, T] -> logits [B, T, V], or what has one: a LanguageModel, a Trainable.
        config: None: all as `RLConfig` has it.
        tokenizer: None: the LanguageModel's own, else bytes.
        replay: text that must not be forgotten; None: none is replayed.
        seed: of what is drawn; where there is a replay, its generator is what all is drawn from.
        folder: where the checkpoint is kept, from which it goes on where there is one; None: nothing is kept.

    Raises: ForgeError where the tokenizer has no tokens for a thought, or the model does not know them.
    """

    def __init__(
        self,
        model: Any,
        config: RLConfig | None = None,
        tokenizer: Tokenizer | None = None,
        *,
        replay: Batches | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
    ) -> None:
        self.model = model
        self.policy: nn.Module = getattr(model, "host", getattr(model, "network", model))
        self.config = config or RLConfig()
        self.tokenizer = tokenizer or getattr(model, "tokenizer", None) or get_tokenizer("bytes")
        self.reference = copy.deepcopy(self.policy).eval().requires_grad_(False)
        self._replay, self._seed, self._folder = replay, seed, None if folder is None else Path(folder)
        self._generator = named_generator(seed, "reinforce") if replay is None else replay.generator
        self.baseline = Baseline(known_tokens(self.policy, self.tokenizer), named_generator(seed, "reinforce/baseline"))
        config = self.config
        parameters = {f"policy.{name}": parameter for name, parameter in self.policy.named_parameters()}
        of_baseline = {f"baseline.{name}": parameter for name, parameter in self.baseline.named_parameters()}
        self._optimizer = torch.optim.AdamW(parameters.values(), config.learning_rate, BETAS, weight_decay=0.0)
        beside = torch.optim.AdamW(of_baseline.values(), config.value_learning_rate, weight_decay=0.0)
        self._optimizers = (self._optimizer, beside)
        self._parameters = parameters | of_baseline
        self._state = TrainingState(self._parameters, self._optimizers, self._generator)
        rate, kind = config.learning_rate, LR_SCHEDULES[config.lr_schedule]
        self._rate = schedule(kind, rate, FINAL_RATE_SHARE * rate, config.updates)
        self.stopping = EarlyStopping(config.patience)
        self.update = 0
        self.rewards: list[float] = []
        self.validations: list[list[float]] = []

    @property
    def done(self) -> bool:
        """Whether all episodes are over, or validations have long enough shown no gain."""
        return self.update >= self.config.updates or self.stopping.should_stop

    def train(
        self,
        train_data: Sequence[Problem],
        val_data: Sequence[Problem],
        log: Callable[..., None] = nothing,
        progress: Callable[[int, int, str], None] = nothing,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Train from wherever it is to the end, and leave in the model what validated best.

        Args: train_data: to learn from, in an order that is drawn; val_data: to choose by; log: gets (step, **figures)
        after each step; progress: (done, total, what); should_stop: is asked after each step. Returns: figures of it
        all; `rewards`, of every episode; `validations`, [episodes so far, exact match].
        Raises: Interrupted, once a checkpoint is written, where that is asked for; DivergedError where the loss is not
        finite; ForgeError where there are no problems.
        """
        if not len(train_data) or not len(val_data):
            raise ForgeError("quietstar: there are no problems to train or to validate on; give at least one of each")
        self._restore()
        most = longest_answer([*train_data, *val_data], self.tokenizer)
        if not self.validations:
            self._validate(val_data, most)
            self._fit_baseline(train_data, most)
        while not self.done:
            figures = self._one_step(train_data, most)
            episodes, every = len(self.rewards), self.config.validation_frequency
            is_due = episodes // every > (episodes - self.config.batch_size) // every
            if is_due or self.update == self.config.updates:
                figures["validation_exact_match"] = self._validate(val_data, most)
            log(self.update, **figures)
            progress(self.update, self.config.updates, "thinking")
            stops = should_stop()
            if is_due or self.done or stops:
                self._save()
            if stops and not self.done:
                raise Interrupted(CHECKPOINT)
        self._take_best()
        return self._summary()

    def _episodes(self, problems: Sequence[Problem], most: int, count: int) -> tuple[Episodes, list[list[int]]]:
        """As many as asked, of problems that are drawn, and what was written in them."""
        picked = torch.randint(len(problems), (count,), generator=self._generator).tolist()
        batch = [problems[place] for place in picked]
        prompts, written = think_aloud(self.policy, self.tokenizer, batch, most, self._generator)
        return Episodes.of(prompts, written, rewards_of(batch, written, self.tokenizer)), written

    def _fit_baseline(self, problems: Sequence[Problem], most: int) -> None:
        """Let it know what the model wins as it is: most is learned in the beginning, and judged by it."""
        episodes, _ = self._episodes(problems, most, _FIRST_EPISODES)
        with torch.no_grad():
            logits = episodes.logits(self.policy)
        self.baseline.fit(episodes, logits, self.config, _FIRST_STEPS)

    def _one_step(self, problems: Sequence[Problem], most: int) -> dict[str, float]:
        config = self.config
        episodes, written = self._episodes(problems, most, config.batch_size)
        self.policy.train()
        logits = episodes.logits(self.policy)
        with torch.no_grad():
            reference = episodes.logits(self.reference)
        losses = episode_losses(episodes, logits, reference, self.baseline(episodes, logits), config)
        entropy_coefficient = config.entropy_at(self.update)
        loss = losses.policy + config.value_loss_coef * losses.value
        loss = loss + config.kl_coefficient * losses.kl - entropy_coefficient * losses.entropy
        if self._replay is not None:
            loss = loss + config.replay_coefficient * next_token_loss(self.policy, *self._replay.draw())
        if not loss.isfinite():
            raise DivergedError(
                f"quietstar: the loss is {loss.item()} at step {self.update}\n"
                "  try a smaller quietstar.rl.learning_rate"
            )
        norm = self._descend(loss)
        self.rewards += episodes.rewards.tolist()
        thoughts = [
            text.index(end) if (end := think_tokens(self.tokenizer)[1]) in text else len(text) for text in written
        ]
        return {
            "reward": episodes.rewards.mean().item(),
            "thought_length": sum(thoughts) / len(thoughts),
            "gradient_norm": norm.item(),
            "learning_rate": self._rate(self.update - 1),
            "entropy_coefficient": entropy_coefficient,
            **losses.figures(),
        }

    def _descend(self, loss: Tensor) -> Tensor:
        """One gradient step of policy and baseline; the norm of their gradients before they were clipped."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(self.update)
        for parameter in self._parameters.values():
            parameter.grad = None
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self.config.max_grad_norm)
        for optimizer in self._optimizers:
            optimizer.step()
        self.update += 1
        return norm

    def _validate(self, problems: Sequence[Problem], most: int) -> float:
        """Share of problems that are answered rightly; always the same random numbers."""
        generator = named_generator(self._seed, "reinforce/validation")
        _, written = think_aloud(self.policy, self.tokenizer, problems, most, generator)
        score = sum(rewards_of(problems, written, self.tokenizer)) / len(problems)
        self.stopping.observe(score, self.update, (self._weights(), {}))
        self.validations.append([float(len(self.rewards)), score])
        return score

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter for name, parameter in self._parameters.items() if name.startswith("policy.")}

    @torch.no_grad()
    def _take_best(self) -> None:
        assert self.stopping.best is not None
        for name, parameter in self._weights().items():
            parameter.copy_(self.stopping.best[0][name])
        self.policy.eval()

    def _summary(self) -> dict[str, Any]:
        episodes = len(self.rewards)
        tenth = max(1, episodes // 10)
        first, last = self.rewards[:tenth], self.rewards[-tenth:]
        gain = unpaired_difference(last, first)
        return {
            "episodes": episodes,
            "updates": self.update,
            "stopped_early": self.update < self.config.updates,
            "initial_exact_match": self.validations[0][1],
            "best_exact_match": self.stopping.best_score,
            "best_update": self.stopping.best_update,
            "first_reward": sum(first) / tenth,
            "last_reward": sum(last) / tenth,
            "reward_gain": gain.mean,
            "reward_gain_low": math.nan if gain.low is None else gain.low,
            "rewards": list(self.rewards),
            "validations": [list(found) for found in self.validations],
        }

    # ---- what is kept

    def _save(self) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        kept, stopping = self.stopping.state()
        tensors = self._state.tensors() | {f"{_STOPPING}{name}": tensor for name, tensor in kept.items()}
        tensors[_REWARDS] = torch.tensor(self.rewards, dtype=torch.float32)
        state = {"stopping": stopping, "validations": self.validations}
        write_bundle(
            self._folder / CHECKPOINT, Checkpoint(tensors=tensors, kind=CHECKPOINT, epoch=self.update, state=state)
        )

    def _restore(self) -> None:
        if self._folder is None or not bundle_paths(self._folder / CHECKPOINT)[1].exists():
            return
        checkpoint = read_bundle(self._folder / CHECKPOINT)
        with restoring(checkpoint):
            self._state.restore(checkpoint.tensors)
            self.stopping.load_state(by_prefix(checkpoint.tensors, _STOPPING), checkpoint.state["stopping"])
            self.rewards = checkpoint.tensors[_REWARDS].tolist()
            self.validations = list(checkpoint.state["validations"])
            self.update = checkpoint.epoch or 0
