"""A small model that may think, and problems for it."""

from esper.forge.budget import TrainingBudget
from esper.forge.quietstar.config import QuietstarConfig, RLConfig, ThoughtFamily
from esper.kasmina import Decoder
from esper.tasks.procedural import Problem, draw_problem
from esper.tasks.task import named_generator
from tests.forge.models import network


def model(seed: int = 0) -> Decoder:
    return network(seed, n_layer=1)


def problems(count: int, name: str = "train", level: int = 1) -> list[Problem]:
    generator = named_generator(0, name)
    families = ("running_sum", "parity")
    return [draw_problem(families[place % 2], level, generator) for place in range(count)]


def rl(**changed) -> RLConfig:
    given = {"num_episodes": 48, "batch_size": 8, "validation_frequency": 16, "patience": 2}
    return RLConfig(**{**given, **changed})


def config(**changed) -> QuietstarConfig:
    """Seconds, whose gates ask for nothing."""
    given = {
        "families": [ThoughtFamily(name="parity", levels=[3], min_thought_gain=-1.0)],
        "bake": TrainingBudget(steps=6, batch_size=8, learning_rate=0.01),
        "bake_rounds": 2,
        "text_batch_size": 2,
        "text_weight": 0.3,
        "rl": rl(),
        "validation_problems": 8,
        "test_problems": 16,
        "min_thought_accuracy": 0.0,
        "min_exact_match_gain": -1.0,
        "min_reward_gain": -1.0,
        "max_text_loss": 10.0,
    }
    return QuietstarConfig(**{**given, **changed})
