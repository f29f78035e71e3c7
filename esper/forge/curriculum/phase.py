"""Phase 5: the model comes to answer problems that can be verified, level by level."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch

from esper.errors import ForgeError
from esper.files import read_bytes, write_atomic
from esper.forge.bundles import load_language_model
from esper.forge.curriculum.config import CurriculumConfig
from esper.forge.curriculum.ladder import Standing, is_mastered, make_standings
from esper.forge.curriculum.plans import CurriculumPlan, Plan, UniformPlan
from esper.forge.curriculum.training import CurriculumTraining
from esper.forge.curriculum.verifier_log import VERIFIER_LOG, VerifierLog, answer, counted, verified
from esper.forge.evaluation import WindowScores, evaluate_corpus
from esper.forge.language_model import LanguageModel
from esper.forge.lessons import Lesson
from esper.forge.phase import MODEL, PHASES, Gate, PhaseContext, PhaseResult, conclude
from esper.forge.trainable import Trainable
from esper.forge.training import CHECKPOINT
from esper.nissa.statistics import paired_difference
from esper.tasks.procedural import FAMILIES, Problem, draw_problem
from esper.tasks.task import named_generator

CHECKPOINTS, CONTROLS = "checkpoints", "controls"
NO_REPLAY, UNIFORM = "no_replay", "uniform"
MOST_BARE = 0.1  # of bodies without their prefix, that are answered as one of the families would have it
_FINAL_EXAMS = 2  # the written model is asked as many problems of a level as so many exams have
_TARGET_LEVELS, _TARGET_PROBLEMS = 3, 8  # of each family: the levels, and of each the problems, of the target


class Curriculum:
    """See `esper.forge.phase.Phase`."""

    name = "curriculum"

    def __init__(self, config: CurriculumConfig, context: PhaseContext) -> None:
        self._config, self._context = config, context

    @property
    def gates(self) -> Sequence[Gate]:
        """Levels are mastered, replay keeps those behind, text is not lost, and nobody answers who was not asked."""
        config = self._config
        return (
            Gate("levels_mastered", "at_least", config.min_levels_mastered),
            Gate("forgetting_avoided", "at_least", config.min_forgetting_avoided),
            Gate("text_ratio", "at_most", config.max_text_ratio),
            *([Gate("bare_accuracy", "at_most", MOST_BARE)] if self._ambiguous else ()),
        )

    @property
    def _ambiguous(self) -> list[str]:
        """Families whose bodies do not tell which of them is meant."""
        kinds = Counter(FAMILIES[family].body for family in self._config.families)
        return [
            family for family in self._config.families if FAMILIES[family].body and kinds[FAMILIES[family].body] > 1
        ]

    def check(self, input: Path | None) -> None:
        """See `Phase.check`."""
        if input is None:
            raise ForgeError("curriculum: it works on the model of an earlier phase: name its folder, input=RUN_DIR")
        for family in self._config.families:
            FAMILIES[family]  # refused by its name where it is not known
        self._standings(Trainable.load(input, self._context, self.name))

    def run(self, input: Path | None, output: Path) -> PhaseResult:
        """See `Phase.run`."""
        started = time.monotonic()
        assert input is not None
        trainable = Trainable.load(input, self._context, self.name)
        plan = CurriculumPlan(self._config, self._standings(trainable), self._log(output))
        fork = output / CONTROLS / NO_REPLAY / CHECKPOINTS / f"{NO_REPLAY}_{CHECKPOINT}"
        curve = self._train(trainable, plan, output, self.name, fork)
        artifacts = trainable.save(output / MODEL, self._context, self.name, taught=self._taught(trainable, plan))
        artifacts["verifier"] = plan.log.path
        metrics = self._measure(plan, artifacts[MODEL]) | self._text(input, artifacts[MODEL])
        metrics |= self._without_replay(input, plan, output) if plan.departures else {}
        if self._context.controls == "all":
            metrics |= self._uniform(input, curve, output)
        return conclude(self.name, self.gates, metrics, artifacts, started)

    def _standings(self, trainable: Trainable) -> dict[str, Standing]:
        return make_standings(self._config.families, self._context.tokenizer, trainable.network.block_size)

    def _log(self, folder: Path) -> VerifierLog:
        return VerifierLog(folder / VERIFIER_LOG, self._context.tokenizer)

    def _train(
        self, trainable: Trainable, plan: Plan, folder: Path, name: str, fork: Path | None = None
    ) -> list[tuple[int, float]]:
        """To the end; how the share of the target's problems that are answered rightly grew, by step."""
        training = CurriculumTraining(
            trainable.network,
            plan,
            self._config,
            self._context,
            name,
            folder / CHECKPOINTS,
            trainable.lessons,
            self._targets() if self._context.controls == "all" else (),
            fork,
        )
        training.run()
        return training.curve

    def _targets(self) -> list[Problem]:
        return self._problems("target", self._config.families, _TARGET_LEVELS, _TARGET_PROBLEMS)

    def _problems(self, purpose: str, families: Sequence[str], levels: int, count: int) -> list[Problem]:
        """Of the first levels of these families, drawn apart from those that are learned from."""
        generator = named_generator(self._context.seed, f"curriculum/{purpose}")
        places = [(family, level) for family in families for level in range(1, levels + 1)]
        return [draw_problem(family, level, generator) for family, level in places for _ in range(count)]

    def _taught(self, trainable: Trainable, plan: CurriculumPlan) -> list[Lesson]:
        """The levels that were mastered, and still are by the network as it will be in use."""
        network, generator = trainable.in_use(), named_generator(self._context.seed, "curriculum/taught")
        families: dict[str, list[int]] = {}
        for standing in plan.standings.values():
            for level in standing.mastered:
                problems = [draw_problem(standing.family, level, generator) for _ in range(self._config.exam_problems)]
                if is_mastered(plan.log.examine("kept", self._config.rounds, problems, network)):
                    families.setdefault(standing.family, []).append(level)
        return [Lesson(phase=self.name, families=families)] if families else []

    def _examine(self, plan: CurriculumPlan, model: LanguageModel) -> None:
        """All levels that were worked at, by problems drawn apart from all others."""
        generator = named_generator(self._context.seed, "curriculum/final")
        count = _FINAL_EXAMS * self._config.exam_problems
        for standing in plan.standings.values():
            for level in range(standing.start, min(standing.level, standing.top) + 1):
                problems = [draw_problem(standing.family, level, generator) for _ in range(count)]
                plan.log.examine("final", self._config.rounds, problems, model.host)

    def _measure(self, plan: CurriculumPlan, path: Path) -> dict[str, float]:
        """Of the model that was written, from its verifier's log."""
        model = load_language_model(path)
        self._examine(plan, model)
        final = counted(plan.log.path, "final")
        mastered = [place for place, accuracy in final.items() if is_mastered(accuracy)]
        metrics = {
            f"{family}/level_{level}/accuracy": accuracy.mean or 0.0 for (family, level), accuracy in final.items()
        }
        for family in plan.standings:
            metrics[f"{family}/levels_mastered"] = sum(name == family for name, _ in mastered)
        return metrics | {
            "levels_mastered": len(mastered),
            "highest_level_mastered": max((level for _, level in mastered), default=0),
            "levels_left": len(plan.departures),
            "forgetting": fmean(_forgotten(plan) or [0.0]),
            **self._bare_accuracy(model),
        }

    def _bare_accuracy(self, model: LanguageModel) -> dict[str, float]:
        """The largest share, over families told apart by prefix alone, of bodies answered though nobody asks."""
        count, tokenizer = self._config.exam_problems, self._context.tokenizer
        shares = []
        for family in self._ambiguous:
            problems = self._problems("bare", [family], 1, count)
            given = answer(model.host, problems, tokenizer, [problem.body for problem in problems])
            shares.append(sum(verified(problems, given)) / count)
        return {"bare_accuracy": max(shares)} if shares else {}

    def _text(self, input: Path, path: Path) -> dict[str, float]:
        """Bits a byte of test text, before and after, each as in use."""
        before, after = (
            WindowScores.pooled(
                evaluate_corpus(model, self._context.corpus, "test", model.host.block_size).values()
            ).bits_per_byte
            for model in map(load_language_model, (input, path))
        )
        return {"text_bits_per_byte": after, "input_text_bits_per_byte": before, "text_ratio": after / before}

    def _without_replay(self, input: Path, plan: CurriculumPlan, output: Path) -> dict[str, float]:
        """The same run up to where the first level is left; from there on without what is behind.

        It leaves its levels in the same rounds, whatever it knows: the same levels are compared.
        """
        folder = output / CONTROLS / NO_REPLAY
        trainable = Trainable.load(input, self._context, self.name)
        control = CurriculumPlan(
            self._config, self._standings(trainable), self._log(folder), replays=False, departures=plan.departures
        )
        if not control.log.path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(control.log.path, read_bytes(plan.log.path))  # cut back to what the checkpoint says
        self._train(trainable, control, folder, NO_REPLAY)
        path = trainable.save(folder / MODEL, self._context, self.name)[MODEL]
        self._examine(control, load_language_model(path))
        forgotten = _forgotten(control)
        avoided = paired_difference(forgotten, _forgotten(plan))
        metrics = {f"{NO_REPLAY}/forgetting": fmean(forgotten), "forgetting_avoided": avoided.mean or 0.0}
        return metrics if avoided.low is None else metrics | {"forgetting_avoided_low": avoided.low}

    def _uniform(self, input: Path, curve: Sequence[tuple[int, float]], output: Path) -> dict[str, float]:
        """As many steps on all levels alike; the target is what both reach in the end."""
        folder = output / CONTROLS / UNIFORM
        trainable = Trainable.load(input, self._context, self.name)
        places = [
            (name, level)
            for name, standing in self._standings(trainable).items()
            for level in range(1, standing.top + 1)
        ]

        def draw(count: int, generator: torch.Generator) -> list[Problem]:
            picked = torch.randint(len(places), (count,), generator=generator).tolist()
            return [draw_problem(family, level, generator) for family, level in (places[place] for place in picked)]

        uniform = self._train(trainable, UniformPlan(draw), folder, UNIFORM)
        trainable.save(folder / MODEL, self._context, self.name)
        target = min(max(share for _, share in points) for points in (curve, uniform))
        steps, others = (next(step for step, share in points if share >= target) for points in (curve, uniform))
        if others < steps:
            self._context.notes.append(
                f"Uniform sampling answers {target:.0%} of the first {_TARGET_LEVELS} levels after {others} steps, "
                f"the curriculum after {steps}."
            )
        return {
            "target_accuracy": curve[-1][1],
            f"{UNIFORM}/target_accuracy": uniform[-1][1],
            "common_target": target,
            "steps_to_target": steps,
            f"{UNIFORM}/steps_to_target": others,
        }


def _forgotten(plan: CurriculumPlan) -> list[float]:
    """Of each level that is behind: its accuracy when it was left, less that of the written model."""
    final = counted(plan.log.path, "final")
    return [
        left - (final[standing.family, level].mean or 0.0)
        for standing in plan.standings.values()
        for level, left in enumerate(standing.left, standing.start)
    ]


@PHASES.register("curriculum", CurriculumConfig)
def build_curriculum(config: CurriculumConfig, context: PhaseContext) -> Curriculum:
    """The phase, as configured."""
    return Curriculum(config, context)
