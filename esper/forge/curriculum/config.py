"""What the phase curriculum is told; free of torch."""

from dataclasses import dataclass

from esper.checks import in_range, positive
from esper.config.checks import distinct


@dataclass(kw_only=True)
class CurriculumConfig:
    """Families, the training on them, and the thresholds of the gates.

    families: of `esper.tasks.procedural`, at least one. rounds: at the beginning of each, every concept is answered and
    verified; then steps_per_round are trained. concepts: problems in play at once, over all families. batch_size:
    examples a step. text_batch_size: windows of text beside them, each as long as the model's context. replay_share:
    of a step's examples, that are of levels which are left behind. exam_problems: that a level is examined by.
    plateau_rounds: without progress, after which a level is left. min_levels_mastered, min_forgetting_avoided (in
    shares of right answers), max_text_ratio (bits per byte after, to those before): the gates' bounds.
    """

    families: list[str]
    rounds: int
    steps_per_round: int
    concepts: int
    batch_size: int
    text_batch_size: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    replay_share: float
    exam_problems: int
    plateau_rounds: int
    min_levels_mastered: int
    min_forgetting_avoided: float
    max_text_ratio: float

    def __post_init__(self) -> None:
        distinct("curriculum.families", self.families)
        in_range("curriculum.rounds", self.rounds, 1, 1_000_000)
        in_range("curriculum.steps_per_round", self.steps_per_round, 1, 100_000)
        in_range("curriculum.concepts", self.concepts, len(self.families), 1_000_000)
        in_range("curriculum.batch_size", self.batch_size, 2, 65_536)
        in_range("curriculum.text_batch_size", self.text_batch_size, 1, 65_536)
        positive("curriculum.learning_rate", self.learning_rate, 1.0)
        in_range("curriculum.weight_decay", self.weight_decay, 0.0, 10.0)
        positive("curriculum.max_grad_norm", self.max_grad_norm)
        in_range("curriculum.replay_share", self.replay_share, 0.0, 0.9)
        in_range("curriculum.exam_problems", self.exam_problems, 16, 100_000)  # fewer can't show mastery
        in_range("curriculum.plateau_rounds", self.plateau_rounds, 2, 1_000_000)
        in_range("curriculum.min_levels_mastered", self.min_levels_mastered, 0, 1000)
        in_range("curriculum.min_forgetting_avoided", self.min_forgetting_avoided, -1.0, 1.0)
        in_range("curriculum.max_text_ratio", self.max_text_ratio, 0.0, 100.0)
