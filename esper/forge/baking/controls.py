"""What stands beside a bake: all weights trained instead of a LoRA, nothing replayed, and bakes upon bakes."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from esper.forge.baking.baker import Baker
from esper.forge.baking.measuring import Before
from esper.forge.baking.tasks import PHASE, Prompt
from esper.forge.lessons import Lesson
from esper.forge.phase import MODEL
from esper.forge.trainable import Trainable

CONTROLS = "controls"
FULL, NO_REPLAY, STACKED = "full_fine_tuning", "no_replay", "stacked"
_KEPT_FIGURES = ("baked", "unprompted", "text_ratio", "task_loss")


@dataclasses.dataclass(frozen=True)
class BakingControls:
    """Each begins where the full bake did, from the taught model. folder: of the phase."""

    baker: Baker
    before: Before
    taught: Trainable
    prompt: Prompt
    kept: Sequence[Lesson]
    folder: Path

    def run(self) -> dict[str, float]:
        """Figures of all of them, each under its own name."""
        metrics: dict[str, float] = {}
        for name, figures in (
            (FULL, self._full()),
            ("lora", self._lora("lora", self.kept)),
            (NO_REPLAY, self._lora(NO_REPLAY, ())),
        ):
            metrics |= {f"{name}/{figure}": figures[figure] for figure in _KEPT_FIGURES}
        return metrics | self._stacked()

    def _full(self) -> dict[str, float]:
        """As many steps, on the same rows."""
        config = self.baker.config
        budget = dataclasses.replace(config.baking, learning_rate=config.teaching.learning_rate)
        trained, teacher = self.taught.copy(), self.taught.copy().network.eval()
        pool = self.baker.pool(teacher, self.prompt, config.trajectories, "pool")
        self.baker.bake(trained.network, teacher, self.prompt, pool, budget, f"control_{FULL}", self.kept)
        return self._measure(trained, FULL)

    def _lora(self, name: str, kept: Sequence[Lesson]) -> dict[str, float]:
        config = self.baker.config
        trained, teacher = self.taught.copy(), self.taught.copy().network.eval()
        pool = self.baker.pool(teacher, self.prompt, config.trajectories, "pool")
        lora = self.baker.lora(trained.network, f"control_{name}")
        self.baker.bake(lora, teacher, self.prompt, pool, config.baking, f"control_{name}", kept)
        lora.fold()
        return self._measure(trained, name)

    def _stacked(self) -> dict[str, float]:
        """The prompt's strength after each of several short bakes; the teacher of each is what the last one left."""
        config = self.baker.config
        metrics: dict[str, float] = {}
        trained = self.taught.copy()
        for number in range(1, config.stacked + 1):
            name = f"{STACKED}_{number}"
            teacher = copy.deepcopy(trained.network).eval()
            pool = self.baker.pool(teacher, self.prompt, config.trajectories, f"{name}/pool")
            lora = self.baker.lora(trained.network, name)
            self.baker.bake(lora, teacher, self.prompt, pool, config.half_baking, f"control_{name}", self.kept)
            lora.fold()
            figures = self._measure(trained, name)
            metrics |= {f"{STACKED}/{number}/{figure}": figures[figure] for figure in _KEPT_FIGURES}
        return metrics

    def _measure(self, trained: Trainable, name: str) -> dict[str, float]:
        path = self.folder / CONTROLS / name / MODEL
        path.parent.mkdir(parents=True, exist_ok=True)
        trained.save(path, self.baker.context, PHASE)
        return self.before.compare(path)
