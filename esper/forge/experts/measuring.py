"""What experts are measured by: each on its own kind, and all of them routed, against the base."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from esper.forge.evaluation import WindowScores, score_windows
from esper.forge.experts.config import ExpertsConfig
from esper.forge.experts.kinds import Dealer, PoolBatches, TextKind
from esper.forge.experts.singular_values import SingularValues, put_in
from esper.forge.language_model import LanguageModel
from esper.forge.lora import LoRA
from esper.forge.phase import PhaseContext
from esper.forge.training import LanguageTraining
from esper.nissa.statistics import Interval, paired_difference
from esper.tasks.task import named_generator
from esper.tasks.text.windows import every_window

_LESSON_PROBLEMS = 256
CONTROLS = "controls"


class Measuring:
    """See the module. Gains are the base's bits a byte less an expert's, or shares of right answers won."""

    def __init__(
        self,
        config: ExpertsConfig,
        context: PhaseContext,
        base: LanguageModel,
        scaled: SingularValues,
        dealer: Dealer,
        kinds: Sequence[TextKind],
    ) -> None:
        self._config, self._context, self._base = config, context, base
        self._scaled, self._dealer, self._kinds = scaled, dealer, kinds
        self._length = base.host.block_size

    def _validation(self, purpose: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """So many windows of each domain, and the kind of each."""
        streams = [domain.val for domain in self._context.corpus.domains.values()]
        generator = named_generator(self._context.seed, f"experts/{purpose}")
        return self._dealer.windows(streams, count, self._length, generator)

    def searched(self, kind: TextKind) -> tuple[Tensor, Tensor]:
        """What mixtures are searched by: windows of one kind, or examples of its problems: x, y [N, T]."""
        count = self._config.search_windows
        if kind.is_procedural:
            generator = named_generator(self._context.seed, f"experts/search/{kind.number}")
            return self._dealer.examples(kind, count, self._length, generator)
        x, y, numbers = self._validation("search", count)
        return x[numbers == kind.number], y[numbers == kind.number]

    def worth_keeping(self, trained: Mapping[int, Tensor]) -> list[int]:
        """The kinds whose experts gain on what selects, by their intervals; all, where none does."""
        kept = []
        x, y, numbers = self._validation("selection", self._config.selection_windows)
        for number, values in trained.items():
            network, kind = self._network(values), self._kinds[number]
            if kind.is_procedural:
                gain = self._right_gain(network, kind, "selection")
            else:
                gain = self._text_gain(network, x[numbers == number], y[numbers == number])
            if gain.low is not None and gain.low > 0:
                kept.append(number)
            else:
                self._context.notes.append(
                    f"The expert of kind {number} was dropped: on validation it gained {gain.text(4, signed=True)}."
                )
        return kept or list(trained)

    def test(self, routed: LanguageModel, owners: Sequence[int]) -> dict[str, float]:
        """Of the model that was read back, on the test split."""
        x, y, domains, numbers = self._test_windows()
        experts = {owner: self._network(values) for owner, values in zip(owners, routed.host.experts, strict=True)}
        metrics: dict[str, float] = {}
        lows, gains = [], []
        for owner, network in experts.items():
            kind = self._kinds[owner]
            if kind.is_procedural:
                gain = self._right_gain(network, kind, "test")
            else:
                own = numbers == owner
                gain = self._text_gain(network, x[own], y[own])
                gains.append(gain.mean or 0.0)
            metrics |= _told(f"expert_{owner}/gain", gain) | {
                f"expert_{owner}/is_procedural": float(kind.is_procedural)
            }
            lows.append(-1.0 if gain.low is None else gain.low)
        base, mixture = self._scores(self._base, x, y), self._scores(routed, x, y)
        alone = {owner: self._scores(network, x, y) for owner, network in experts.items()}
        best = min(alone, key=lambda owner: alone[owner].bits_per_byte)
        metrics |= {
            "own_gain_low": min(lows),
            "own_gain": min(gains, default=0.0),
            **_told("gain", base.difference(mixture)),
            **_told("gain_over_best_expert", alone[best].difference(mixture)),
            "base/bits_per_byte": base.bits_per_byte,
            "routed/bits_per_byte": mixture.bits_per_byte,
            **{f"expert_{owner}/bits_per_byte": score.bits_per_byte for owner, score in alone.items()},
        }
        for domain in sorted(set(domains)):
            own = torch.tensor([each == domain for each in domains])
            dealt = numbers[own].bincount(minlength=len(self._kinds)) / int(own.sum())
            metrics |= {f"{domain}/kind_{kind}": share for kind, share in enumerate(dealt.tolist())}
        for lesson in self._base.card.lessons:
            for name, model in {"base": self._base.host, "routed": routed.host}.items():
                accuracy = lesson.accuracy(model, self._context.tokenizer, _LESSON_PROBLEMS)
                metrics[f"lesson/{lesson.name}/{name}"] = accuracy
        return metrics

    def controls(
        self, batches: Mapping[int, PoolBatches], owners: Sequence[int], reached: Mapping[str, float], output: Path
    ) -> dict[str, float]:
        """LoRA with as many parameters and steps, on the same windows in the same order.

        Of rank one, so that so few parameters are spread over as many matrices as can be.
        """
        config, context = self._config, self._context
        x, y, _, numbers = self._test_windows()
        budget = copy.copy(config.training)
        budget.learning_rate = config.lora_learning_rate
        metrics: dict[str, float] = {}
        for owner in owners:
            if owner not in batches:
                continue
            generator = named_generator(context.seed, "experts/lora")
            update = LoRA(self._scaled.network, 1, 1.0, generator, self._scaled.values.numel())
            name = f"lora_{owner}"
            LanguageTraining(update, batches[owner], budget, name, output / CONTROLS).run(context)
            own = numbers == owner
            gain = self._text_gain(update, x[own], y[own])
            metrics |= _told(f"lora_{owner}/gain", gain)
            behind = (gain.mean or 0.0) - reached[f"expert_{owner}/gain"]
            if behind > 0:
                context.notes.append(
                    f"LoRA of as many parameters and steps is {behind:.4f} bits a byte better on kind {owner}."
                )
        return metrics

    def _test_windows(self) -> tuple[Tensor, Tensor, list[str], Tensor]:
        """x, y [N, T], the domain of each window, and its kind [N]."""
        parts, domains = [], []
        for name, domain in self._context.corpus.domains.items():
            x, y = every_window(domain.test, self._length)
            parts.append((x[: self._config.test_windows], y[: self._config.test_windows]))
            domains += [name] * len(parts[-1][0])
        x, y = (torch.cat(part) for part in zip(*parts, strict=True))
        return x, y, domains, self._dealer.kinds(x)

    def _network(self, values: Tensor) -> nn.Module:
        network: nn.Module = copy.deepcopy(self._scaled.network)
        return put_in(network, self._scaled.weights(values.detach()))

    def _scores(self, network: nn.Module, x: Tensor, y: Tensor) -> WindowScores:
        return score_windows(network, x, y, self._context.corpus.tokenizer.token_bytes)

    def _text_gain(self, network: nn.Module, x: Tensor, y: Tensor) -> Interval:
        if not len(x):
            return Interval(None, None, None, 0)
        return self._scores(self._base, x, y).difference(self._scores(network, x, y))

    def _right_gain(self, network: nn.Module, kind: TextKind, purpose: str) -> Interval:
        """Of problems of a kind, by their greedy answers."""
        generator = named_generator(self._context.seed, f"experts/{purpose}/problems/{kind.number}")
        count = self._config.test_problems // len(kind.lessons)
        before: list[float] = []
        after: list[float] = []
        for lesson in kind.lessons:
            problems = self._dealer.problems(kind, lesson, max(1, count), generator)
            if problems:
                before += lesson.is_right(self._base.host, problems, self._context.tokenizer)
                after += lesson.is_right(network, problems, self._context.tokenizer)
        return paired_difference(after, before)


def _told(name: str, interval: Interval) -> dict[str, float]:
    """A mean and its bounds, as metrics; what could not be measured is left out."""
    bounds = {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {key: value for key, value in bounds.items() if value is not None}
