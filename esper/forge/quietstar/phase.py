"""Phase 3: the model learns to think before it answers, by whether its answers are right."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from esper.errors import ForgeError
from esper.forge.bundles import load_language_model
from esper.forge.evaluation import evaluate_corpus, mean_bits_per_byte
from esper.forge.examples import think_tokens
from esper.forge.lessons import Lesson
from esper.forge.phase import MODEL, PHASES, Gate, PhaseContext, PhaseResult, conclude
from esper.forge.quietstar.config import QuietstarConfig
from esper.forge.quietstar.measuring import exact_match, thought_worth
from esper.forge.quietstar.problems import ThoughtProblems
from esper.forge.quietstar.reinforce import REINFORCETrainer
from esper.forge.quietstar.scratchpad import BAKE_SHARE, bake, text_batches, thought_accuracy, train_on_thoughts
from esper.forge.trainable import Trainable
from esper.tasks.task import named_generator

BAKED, CHECKPOINTS, CONTROLS = "baked", "checkpoints", "controls"

# Supervised training for as many steps as reinforcement took: share of the problems that have their thought.
SUPERVISED = {"supervised": 1.0, "baked_on": BAKE_SHARE}


class Quietstar:
    """See `esper.forge.phase.Phase`. Beside `model` lies `baked`, as it was before it was reinforced."""

    name = "quietstar"

    def __init__(self, config: QuietstarConfig, context: PhaseContext) -> None:
        self._config, self._context = config, context

    @property
    def gates(self) -> Sequence[Gate]:
        """Thoughts are right before they are reinforced; then answers get better, by the thoughts; text is kept."""
        config = self._config
        worth = [
            Gate(f"{family.name}/own_minus_{other}", "at_least", family.min_thought_gain)
            for family in config.families
            for other in ("none", "shuffled")
        ]
        return (
            Gate("thought_accuracy", "at_least", config.min_thought_accuracy),
            Gate("exact_match_gain", "at_least", config.min_exact_match_gain),
            *worth,
            Gate("reward_gain_low", "at_least", config.min_reward_gain),
            Gate("text_loss", "at_most", config.max_text_loss),
        )

    def check(self, input: Path | None) -> None:
        """See `Phase.check`."""
        if input is None:
            raise ForgeError("quietstar: it works on the model of an earlier phase: name its folder, input=RUN_DIR")
        think_tokens(self._context.tokenizer)
        model = Trainable.load(input, self._context, self.name)
        self._problems().check_room(self._context.tokenizer, model.network.block_size)

    def run(self, input: Path | None, output: Path) -> PhaseResult:
        """See `Phase.run`."""
        started = time.monotonic()
        assert input is not None
        config, context, problems = self._config, self._context, self._problems()
        model = Trainable.load(input, context, self.name)
        checkpoints = output / CHECKPOINTS
        metrics: dict[str, float] = {"bake_rounds": bake(model.network, problems, config, context, checkpoints)}
        artifacts = model.save(output / BAKED, context, self.name)
        baked = load_language_model(artifacts[BAKED])
        metrics["thought_accuracy"] = thought_accuracy(baked.host, problems.test, context.tokenizer)
        if metrics["thought_accuracy"] < config.min_thought_accuracy:
            context.notes.append("Nothing was reinforced: the model would only have learned not to think.")
            return conclude(self.name, self.gates[:1], metrics, artifacts, started)
        reinforced = model.copy()
        metrics |= self._reinforce(reinforced, problems, checkpoints)
        artifacts |= reinforced.save(output / MODEL, context, self.name, metrics, [self._lesson()])
        metrics |= self._measure(artifacts, baked.host, problems)
        metrics |= self._text_loss(input, artifacts[MODEL])
        if context.controls == "all":
            metrics |= self._controls(model, problems, int(metrics["updates"]), output, metrics["exact_match"])
        return conclude(self.name, self.gates, metrics, artifacts, started)

    def _problems(self) -> ThoughtProblems:
        config = self._config
        return ThoughtProblems.of(config.families, config.test_problems, config.validation_problems, self._context.seed)

    def _lesson(self) -> Lesson:
        return Lesson(
            phase=self.name, families={f.name: list(f.levels) for f in self._config.families}, style="thought"
        )

    def _reinforce(self, model: Trainable, problems: ThoughtProblems, folder: Path) -> dict[str, float]:
        config, context = self._config, self._context
        replay = text_batches(context, config, "replay")
        trainer = REINFORCETrainer(model, config.rl, context.tokenizer, replay=replay, seed=context.seed, folder=folder)
        drawn = problems.draw(config.rl.num_episodes, named_generator(context.seed, "quietstar/problems"))
        found = trainer.train(drawn, problems.validation, context.log, context.progress, context.should_stop)
        if found["stopped_early"]:
            context.notes.append(f"Reinforcement stopped after {found['episodes']} episodes, when it gained no more.")
        return {name: float(value) for name, value in found.items() if not isinstance(value, list)}

    def _measure(self, artifacts: Mapping[str, Path], baked: nn.Module, problems: ThoughtProblems) -> dict[str, float]:
        """Of the models as they come back from their files."""
        tokenizer = self._context.tokenizer
        reinforced = load_language_model(artifacts[MODEL]).host
        before, after = (exact_match(network, tokenizer, problems.test) for network in (baked, reinforced))
        metrics = after | {f"baked/{name}": value for name, value in before.items()}
        metrics["exact_match_gain"] = after["exact_match"] - before["exact_match"]
        return metrics | thought_worth(reinforced, tokenizer, problems.test)

    def _text_loss(self, input: Path, output: Path) -> dict[str, float]:
        """Bits per byte of test text before and after the phase, and the share by which they rose."""
        before, after = (self._bits_per_byte(path) for path in (input, output))
        return {"input_bits_per_byte": before, "bits_per_byte": after, "text_loss": after / before - 1.0}

    def _bits_per_byte(self, path: Path) -> float:
        model = load_language_model(path)
        return mean_bits_per_byte(evaluate_corpus(model, self._context.corpus, "test", model.host.block_size))

    def _controls(
        self, baked: Trainable, problems: ThoughtProblems, steps: int, output: Path, reached: float
    ) -> dict[str, float]:
        """The baked model, trained on under supervision for as many steps as reinforcement took."""
        config, context = self._config, self._context
        budget = config.supervised_budget(steps)
        metrics: dict[str, float] = {}
        for name, share in SUPERVISED.items():
            model, folder = baked.copy(), output / CONTROLS / name
            train_on_thoughts(model.network, problems, budget, config, context, name, folder / CHECKPOINTS, share)
            written = model.save(folder / MODEL, context, self.name)[MODEL]
            scores = exact_match(load_language_model(written).host, context.tokenizer, problems.test)
            metrics |= {f"{name}/{figure}": value for figure, value in scores.items()}
            metrics[f"{name}/bits_per_byte"] = self._bits_per_byte(written)
        best = max(SUPERVISED, key=lambda name: metrics[f"{name}/exact_match"])
        if (score := metrics[f"{best}/exact_match"]) > reached:
            context.notes.insert(
                0,
                f"Supervised training for as many steps ({best}) won: {score:.3f} exact matches, "
                f"reinforced {reached:.3f}.",
            )
        return metrics


@PHASES.register("quietstar", QuietstarConfig)
def build_quietstar(config: QuietstarConfig, context: PhaseContext) -> Quietstar:
    """The phase, as configured."""
    return Quietstar(config, context)
