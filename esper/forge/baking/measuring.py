"""What a bake came to, measured on the bundles of the model before it and of the model after it."""

from collections.abc import Mapping
from pathlib import Path

from esper.forge.baking.baker import Baker
from esper.forge.baking.tasks import Prompt
from esper.forge.bundles import load_language_model
from esper.forge.evaluation import WindowScores, evaluate_corpus, mean_bits_per_byte
from esper.forge.language_model import LanguageModel

Scores = Mapping[str, WindowScores]  # by domain


class Before:
    """The model that a prompt does something to, read back from disk, and what it does there.

    Args: family: whose prefix is baked. All is measured on problems, trajectories and text that chose nothing.
    """

    def __init__(self, baker: Baker, path: Path, family: str) -> None:
        self._baker, self._family = baker, family
        self._model = load_language_model(path)
        self._prompt: Prompt = baker.tasks.prompt(family)
        count, generator = baker.config.test_problems, baker.generator("test")
        self._problems = {name: baker.tasks.problems(name, count, generator) for name in baker.tasks.families}
        teacher = self._model.host
        self._pool = baker.pool(teacher, self._prompt, count, "test/pool")
        self.divergence = baker.divergence(teacher, teacher, self._prompt, self._pool)
        self.scores = text_scores(baker, self._model)
        self.prefixed = self._prefixed(self._model)
        self.unprompted = self._unprompted(self._model)

    def compare(self, path: Path) -> dict[str, float]:
        """Figures of the model that a bake made."""
        model = load_language_model(path)
        divergence = self._baker.divergence(model.host, self._model.host, self._prompt, self._pool)
        prefixed, scores = self._prefixed(model), text_scores(self._baker, model)
        lost = {name: self.prefixed[name] - accuracy for name, accuracy in prefixed.items()}
        now, then = (WindowScores.pooled(found.values()) for found in (scores, self.scores))
        difference = now.difference(then)
        return {
            "baked": 1 - divergence / self.divergence,
            "divergence": divergence,
            "unprompted": self._unprompted(model),
            "text_ratio": mean_bits_per_byte(scores) / mean_bits_per_byte(self.scores),
            "text_bits": mean_bits_per_byte(scores),
            **{
                f"text_bits_difference_{end}": value
                for end, value in (("low", difference.low), ("high", difference.high))
                if value is not None
            },
            "task_loss": max(loss for name, loss in lost.items() if name != self._family),
            **{f"{name}/accuracy": accuracy for name, accuracy in prefixed.items()},
        }

    def plain(self) -> dict[str, float]:
        """Its own figures, by names that say so."""
        return {
            "divergence_before": self.divergence,
            "unprompted_before": self.unprompted,
            "text_bits_before": mean_bits_per_byte(self.scores),
            **{f"{name}/accuracy_before": accuracy for name, accuracy in self.prefixed.items()},
        }

    def _prefixed(self, model: LanguageModel) -> dict[str, float]:
        tasks = self._baker.tasks
        return {
            name: tasks.accuracy(model.host, tasks.prompt(name).tokens, problems)
            for name, problems in self._problems.items()
        }

    def _unprompted(self, model: LanguageModel) -> float:
        return self._baker.tasks.accuracy(model.host, (), self._problems[self._family])


def text_scores(baker: Baker, model: LanguageModel) -> Scores:
    """Of all test text."""
    context = baker.context
    return evaluate_corpus(model, context.corpus, "test", context.model.block_size)
