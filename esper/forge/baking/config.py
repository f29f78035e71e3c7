"""What the phase baking is told; free of torch."""

from dataclasses import dataclass

from esper.checks import in_range, positive, require
from esper.config.checks import distinct
from esper.forge.budget import TrainingBudget

FEWEST_FAMILIES = 4  # that are told apart by their prefixes alone, so that there is something to be lost


@dataclass(kw_only=True)
class BakingConfig:
    """Teaching where the model needs it, cycles of half-baking, one full bake, and the thresholds of the gates.

    families, levels: the prefixed tasks, of one kind of body, and which of their levels. teaching: supervised, where a
    task is below min_taught; batch_size: rows of problems. baking, half_baking: of a LoRA of this rank and alpha;
    batch_size: rows of the prompt that is baked. lesson_rows, text_rows: of what is replayed beside them. trajectories:
    that the teacher writes to be trained on. max_rounds: half-bakes a cycle at the most. candidates: prefixes that the
    model writes for a cycle B, of prefix_tokens each. selection_problems, test_problems: of each task, that is chosen
    and measured by; selection_windows: of each domain's validation text. max_loss: of accuracy, that a half-bake may
    cost any task. stacked: bakes of one prompt, one upon another (controls=all). min_baked, min_unprompted,
    max_unprompted_before, max_text_ratio, max_task_loss: the gates' bounds.
    """

    families: list[str]
    levels: list[int]
    min_taught: float
    teaching: TrainingBudget
    baking: TrainingBudget
    half_baking: TrainingBudget
    rank: int
    alpha: float
    lesson_rows: int
    text_rows: int
    trajectories: int
    max_rounds: int
    candidates: int
    prefix_tokens: int
    selection_problems: int
    selection_windows: int
    test_problems: int
    max_loss: float
    stacked: int
    checkpoint_every_steps: int
    min_baked: float
    min_unprompted: float
    max_unprompted_before: float
    max_text_ratio: float
    max_task_loss: float

    def __post_init__(self) -> None:
        enough = len(self.families) >= FEWEST_FAMILIES
        require(enough, "baking.families", self.families, f"at least {FEWEST_FAMILIES} families")
        distinct("baking.families", self.families)
        is_distinct = len(set(self.levels)) == len(self.levels) > 0
        require(is_distinct, "baking.levels", self.levels, "at least one level, each once")
        for level in self.levels:
            in_range("baking.levels", level, 1, 1000)
        for key in ("teaching", "baking", "half_baking"):
            getattr(self, key).check(f"baking.{key}")
        in_range("baking.rank", self.rank, 1, 1024)
        positive("baking.alpha", self.alpha, 1e6)
        whole = ("lesson_rows", "text_rows", "trajectories", "max_rounds", "candidates", "prefix_tokens", "stacked")
        measured = ("selection_problems", "selection_windows", "test_problems", "checkpoint_every_steps")
        for key in (*whole, *measured):
            in_range(f"baking.{key}", getattr(self, key), 1, 1_000_000)
        shares = ("min_taught", "max_loss", "min_baked", "min_unprompted", "max_unprompted_before", "max_task_loss")
        for key in shares:
            in_range(f"baking.{key}", getattr(self, key), 0.0, 1.0)
        in_range("baking.max_text_ratio", self.max_text_ratio, 0.0, 100.0)
