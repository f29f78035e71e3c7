"""What the phase experts is told; free of torch."""

from dataclasses import dataclass

from esper.checks import in_range, positive, require
from esper.forge.budget import TrainingBudget


@dataclass(kw_only=True)
class RewardBudget:
    """Training by verified reward: in each step, so many answers to so many problems."""

    steps: int
    problems: int
    answers: int
    learning_rate: float
    max_grad_norm: float

    def __post_init__(self) -> None:
        in_range("experts.reward.steps", self.steps, 1, 1_000_000)
        in_range("experts.reward.problems", self.problems, 1, 65_536)
        in_range("experts.reward.answers", self.answers, 2, 4096)
        positive("experts.reward.learning_rate", self.learning_rate, 1.0)
        positive("experts.reward.max_grad_norm", self.max_grad_norm)


@dataclass(kw_only=True)
class ExpertsConfig:
    """Discovery, training, routing, the search for mixtures, and the thresholds of the gates.

    max_experts: the most that are tried. prefixes: that they are discovered from, of each domain and each lesson.
    stages: tokens after which the router chooses. training: of an expert of text. reward: of one of problems.
    train_windows: of each domain, dealt to the experts; search_windows, selection_windows: of each domain's validation
    text, that mixtures are searched by, and experts kept; test_windows. test_problems: of each expert of problems.
    population, generations, search_seeds: of the search. lora_learning_rate: of the control. min_own_gain: of each
    expert of text on its own kind, and min_gain: of the routed model on all text, in bits a byte below the base.
    """

    max_experts: int
    prefixes: int
    stages: list[int]
    training: TrainingBudget
    reward: RewardBudget
    train_windows: int
    search_windows: int
    selection_windows: int
    test_windows: int
    test_problems: int
    population: int
    generations: int
    search_seeds: int
    lora_learning_rate: float
    min_own_gain: float
    min_gain: float

    def __post_init__(self) -> None:
        in_range("experts.max_experts", self.max_experts, 2, 64)
        in_range("experts.prefixes", self.prefixes, 1, 100_000)
        is_ascending = bool(self.stages) and self.stages == sorted(set(self.stages))
        require(is_ascending, "experts.stages", self.stages, "numbers of tokens, ascending")
        in_range("experts.stages", self.stages[0], 2)
        in_range("experts.stages", self.stages[-1], 2, 255)
        self.training.check("experts.training")
        for name in ("train_windows", "search_windows", "selection_windows", "test_windows", "test_problems"):
            in_range(f"experts.{name}", getattr(self, name), 3, 1_000_000)
        in_range("experts.population", self.population, 4, 10_000)
        in_range("experts.generations", self.generations, 1, 10_000)
        in_range("experts.search_seeds", self.search_seeds, 1, 99)
        positive("experts.lora_learning_rate", self.lora_learning_rate, 1.0)
        in_range("experts.min_own_gain", self.min_own_gain, 0.0, 10.0)
        in_range("experts.min_gain", self.min_gain, 0.0, 10.0)
