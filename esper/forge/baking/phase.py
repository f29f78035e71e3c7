"""Phase 6: a task's prefix, baked into the weights: the model does unprompted what it did when it was asked."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from esper.errors import ForgeError
from esper.files.opening import make_folder
from esper.forge.baking.baker import Baker
from esper.forge.baking.config import BakingConfig
from esper.forge.baking.controls import FULL, BakingControls
from esper.forge.baking.cycles import LOG, Cycles, Scored, best_of, least_room
from esper.forge.baking.measuring import Before, text_scores
from esper.forge.baking.selection import Selection
from esper.forge.baking.tasks import PHASE, PrefixedTasks
from esper.forge.bundles import load_language_model
from esper.forge.evaluation import mean_bits_per_byte
from esper.forge.lessons import Lesson
from esper.forge.phase import MODEL, PHASES, Gate, PhaseContext, PhaseResult, conclude
from esper.forge.trainable import Trainable

CHECKPOINTS, TAUGHT, FULL_BAKE = "checkpoints", "taught", "full_bake"


class Baking:
    """See `esper.forge.phase.Phase`. `taught/model` is what the bakes began from; `model` has one prefix baked in."""

    name = PHASE

    def __init__(self, config: BakingConfig, context: PhaseContext) -> None:
        self._config, self._context = config, context

    @property
    def gates(self) -> Sequence[Gate]:
        """The prefix is in the weights, where it was not before, and neither text nor the other tasks are lost."""
        config = self._config
        return (
            Gate("baked", "at_least", config.min_baked),
            Gate("unprompted_before", "at_most", config.max_unprompted_before),
            Gate("unprompted", "at_least", config.min_unprompted),
            Gate("text_ratio", "at_most", config.max_text_ratio),
            Gate("task_loss", "at_most", config.max_task_loss),
        )

    def check(self, input: Path | None) -> None:
        """See `Phase.check`."""
        if input is None:
            raise ForgeError("baking: it works on the model of an earlier phase: name its folder, input=RUN_DIR")
        Trainable.load(input, self._context, self.name)
        config, room = self._config, self._context.model.block_size
        tasks = self._tasks()
        prompts = [len(tasks.prompt(family).tokens) for family in tasks.families]
        answered = tasks.body_tokens + tasks.answer_tokens
        # A worked prompt has a solved problem and the prefix twice.
        if (asked := 2 * (max(prompts) + answered)) > room:
            raise ForgeError(
                f"baking.levels={config.levels}: a solved problem and one more take {asked} tokens, and the model "
                f"reads {room}\n  take easier levels, or a larger model.block_size"
            )
        if least_room(config.prefix_tokens) >= room:
            raise ForgeError(
                f"baking.prefix_tokens={config.prefix_tokens}: leaves no room for text, as the model reads {room} "
                f"tokens\n  expected at most {room - 1 - least_room(0)}"
            )

    def run(self, input: Path | None, output: Path) -> PhaseResult:
        """See `Phase.run`."""
        started = time.monotonic()
        assert input is not None
        config, context = self._config, self._context
        model = Trainable.load(input, context, self.name)
        baker = Baker(config, context, self._tasks(), output / CHECKPOINTS)
        selection = Selection(baker)
        lessons, metrics = self._teach(model, baker, selection, input, output)
        kept = [*model.lessons, baker.tasks.lesson("answer")]
        folder = output / TAUGHT if lessons else input

        taught = model.copy()
        cycles = Cycles(baker, selection, kept, output)
        model = replace(model, network=cycles.run(model.network))
        family = cycles.family or self._most_asked(baker.tasks, taught, selection)
        metrics |= {
            "rounds": len(cycles.rounds),
            "accepted": sum(bool(entry["accepted"]) for entry in cycles.rounds),
        }

        prompt, teacher = baker.tasks.prompt(family), taught.copy().network.eval()
        pool = baker.pool(teacher, prompt, config.trajectories, "pool")
        model = model.copy()
        lora = baker.lora(model.network, FULL_BAKE)
        baker.bake(lora, teacher, prompt, pool, config.baking, FULL_BAKE, kept)
        lora.fold()
        artifacts = model.save(
            output / MODEL, context, self.name, taught=[*lessons, baker.tasks.lesson("unprompted", [family])]
        )

        before = Before(baker, folder, family)
        metrics |= before.plain() | before.compare(artifacts[MODEL])
        context.notes.insert(0, f"The prefix of {family} is baked in: unprompted, the model does this task.")
        if context.controls == "all":
            metrics |= self._controls(BakingControls(baker, before, taught, prompt, kept, output), metrics)
        return conclude(self.name, self.gates, metrics, {**artifacts, "cycles": output / LOG}, started)

    def _tasks(self) -> PrefixedTasks:
        return PrefixedTasks(self._config.families, self._config.levels, self._context.tokenizer)

    def _teach(
        self, model: Trainable, baker: Baker, selection: Selection, input: Path, output: Path
    ) -> tuple[list[Lesson], dict[str, float]]:
        """Teach the model, in place, what it cannot do yet. Returns: lessons that are new, and figures."""
        config, context = self._config, self._context
        known = selection.prefixed(model.in_use())
        missing = [family for family, accuracy in known.items() if accuracy < config.min_taught]
        metrics = {f"teaching/{family}/before": accuracy for family, accuracy in known.items()}
        if not missing:
            return [], {**metrics, "teaching/steps": 0.0}
        baker.teach(model.network, baker.tasks.lesson("answer"), model.lessons, "teaching")
        lessons = [baker.tasks.lesson("answer", missing)]
        make_folder(output / TAUGHT)
        model.save(output / TAUGHT / MODEL, context, self.name, taught=lessons)
        after = text_scores(baker, load_language_model(output / TAUGHT))
        then = text_scores(baker, load_language_model(input))
        context.notes.append(f"Taught first, as the model could not do them: {', '.join(missing)}.")
        return lessons, {
            **metrics,
            "teaching/steps": float(config.teaching.steps),
            "teaching/text_ratio": mean_bits_per_byte(after) / mean_bits_per_byte(then),
        }

    def _most_asked(self, tasks: PrefixedTasks, model: Trainable, selection: Selection) -> str:
        """The task that its prefix does most for, where no half-bake has chosen one; of several, or none, the first."""
        scored = [Scored(prompt, selection.gain(model.network, prompt)) for prompt in map(tasks.prompt, tasks.families)]
        best = best_of(scored, self._config.max_loss) or scored[0]
        assert best.prompt.family is not None
        return best.prompt.family

    def _controls(self, controls: BakingControls, metrics: dict[str, float]) -> dict[str, float]:
        found = controls.run()
        full = found[f"{FULL}/baked"], found[f"{FULL}/text_ratio"]
        if full[0] > metrics["baked"] or full[1] < metrics["text_ratio"]:
            self._context.notes.insert(
                0,
                f"All weights, trained for as many steps, bake {full[0]:.3f} at {full[1]:.3f} times the bits of text; "
                f"the LoRA {metrics['baked']:.3f} at {metrics['text_ratio']:.3f}.",
            )
        return found


@PHASES.register("baking", BakingConfig)
def build_baking(config: BakingConfig, context: PhaseContext) -> Baking:
    """The phase, as configured."""
    return Baking(config, context)
