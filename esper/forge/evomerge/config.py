"""What the phase evomerge is told."""

from dataclasses import dataclass

from esper.checks import in_range, one_of, positive
from esper.forge.budget import TrainingBudget

METHODS = ("linear", "ties", "dare")
STRATEGIES = ("cma_es", "genetic")


@dataclass(kw_only=True)
class EvomergeConfig:
    """Merges, the search over their weights, and what the champion must reach.

    method: what is made of the specialists' task vectors before a search weighs them. strategy: what searches.
    sigma: standard deviation of the first generation, in weights. population: candidates a generation. search_seeds:
    searches, and as many random ones beside them. search_windows: of each domain's validation text, that a candidate is
    scored on; selection_windows: that the ends of searches and the fixed merges are; test_windows: of the test text.
    task_arithmetic_weight: of each specialist, in the fixed merge. ties_density: share of a task vector that is kept.
    dare_drop_rate: share that is dropped. min_bits_below_trunk, min_bits_below_soup: the gates' bounds, in bits a byte
    of test text. continued_training: of the trunk, as the control; as many steps as all specialists had together.
    """

    method: str
    strategy: str
    sigma: float
    population: int
    generations: int
    search_seeds: int
    search_windows: int
    selection_windows: int
    test_windows: int
    task_arithmetic_weight: float
    ties_density: float
    dare_drop_rate: float
    min_bits_below_trunk: float
    min_bits_below_soup: float
    continued_training: TrainingBudget

    def __post_init__(self) -> None:
        self.continued_training.check("evomerge.continued_training")
        one_of("evomerge.method", self.method, METHODS)
        one_of("evomerge.strategy", self.strategy, STRATEGIES)
        positive("evomerge.sigma", self.sigma, 10.0)
        in_range("evomerge.population", self.population, 4, 10_000)
        in_range("evomerge.generations", self.generations, 1, 1_000_000)
        in_range("evomerge.search_seeds", self.search_seeds, 1, 1000)
        for key in ("search_windows", "selection_windows", "test_windows"):
            in_range(f"evomerge.{key}", getattr(self, key), 1, 10_000_000)
        in_range("evomerge.task_arithmetic_weight", self.task_arithmetic_weight, -10.0, 10.0)
        positive("evomerge.ties_density", self.ties_density, 1.0)
        in_range("evomerge.dare_drop_rate", self.dare_drop_rate, 0.0, 0.99)
        for key in ("min_bits_below_trunk", "min_bits_below_soup"):
            in_range(f"evomerge.{key}", getattr(self, key), -1.0, 8.0)
