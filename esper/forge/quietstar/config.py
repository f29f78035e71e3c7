"""What the phase quietstar is told; free of torch."""

from dataclasses import dataclass, replace

from esper.checks import in_range, one_of, positive, require
from esper.config.checks import distinct
from esper.forge.budget import TrainingBudget

# Kinds of a learning rate's schedule, by their names in `esper.simic.on_policy.schedules`.
LR_SCHEDULES = {"constant": "constant", "linear": "linear", "cosine": "warmup_cosine"}


@dataclass
class RLConfig:
    """REINFORCE with a learned baseline, as `REINFORCETrainer` does it.

    num_episodes: problems answered to learn from, `batch_size` of them a gradient step. learning_rate: of the policy;
    it falls as lr_schedule says, to a twentieth. entropy_coefficient: of the bonus for undecided tokens, times
    entropy_decay after every step, down to entropy_floor. kl_coefficient: of the divergence from the model that it
    began with. max_grad_norm: of the gradients of policy and baseline together. value_loss_coef: of the baseline's
    squared error; value_learning_rate: its own. replay_coefficient: of the loss on replayed text. validation_frequency:
    episodes between two validations; patience: of them without a gain, after which it stops. use_gae: advantages by
    gae_lambda; else what was won less the baseline. gamma: discount of a token.
    """

    num_episodes: int = 10_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    lr_schedule: str = "cosine"
    entropy_coefficient: float = 0.01
    entropy_decay: float = 0.99
    max_grad_norm: float = 1.0
    value_loss_coef: float = 0.5
    patience: int = 5
    validation_frequency: int = 500
    use_gae: bool = True
    gae_lambda: float = 0.95
    gamma: float = 0.99
    entropy_floor: float = 0.001
    kl_coefficient: float = 0.02
    value_learning_rate: float = 3e-3
    replay_coefficient: float = 0.3

    def __post_init__(self) -> None:
        key = "quietstar.rl."
        in_range(f"{key}num_episodes", self.num_episodes, 1, 100_000_000)
        in_range(f"{key}batch_size", self.batch_size, 1, 65_536)
        positive(f"{key}learning_rate", self.learning_rate, 1.0)
        positive(f"{key}value_learning_rate", self.value_learning_rate, 1.0)
        one_of(f"{key}lr_schedule", self.lr_schedule, LR_SCHEDULES)
        in_range(f"{key}entropy_coefficient", self.entropy_coefficient, 0.0, 10.0)
        in_range(f"{key}entropy_decay", self.entropy_decay, 0.0, 1.0)
        in_range(f"{key}entropy_floor", self.entropy_floor, 0.0, 10.0)
        positive(f"{key}max_grad_norm", self.max_grad_norm)
        for name in ("value_loss_coef", "kl_coefficient", "replay_coefficient"):
            in_range(f"{key}{name}", getattr(self, name), 0.0, 100.0)
        in_range(f"{key}gae_lambda", self.gae_lambda, 0.0, 1.0)
        in_range(f"{key}gamma", self.gamma, 0.0, 1.0)
        in_range(f"{key}patience", self.patience, 1, 1_000_000)
        in_range(f"{key}validation_frequency", self.validation_frequency, 1, 100_000_000)
        require(
            self.patience * self.validation_frequency < self.num_episodes,
            f"{key}patience",
            self.patience,
            f"fewer than {self.num_episodes / self.validation_frequency:.4g}, which is {key}num_episodes over "
            f"{key}validation_frequency: it could never stop early",
        )

    @property
    def updates(self) -> int:
        """Gradient steps, where nothing stops it early."""
        return -(-self.num_episodes // self.batch_size)

    def entropy_at(self, update: int) -> float:
        """The coefficient of the entropy at a step, counted from 0."""
        return max(
            min(self.entropy_floor, self.entropy_coefficient), self.entropy_coefficient * self.entropy_decay**update
        )


@dataclass(kw_only=True)
class ThoughtFamily:
    """A family of problems to think about.

    name, levels: see `esper.tasks.procedural`. min_thought_gain: what the model's own thought must be worth, in exact
    matches, beside none and beside that of another problem.
    """

    name: str
    levels: list[int]
    min_thought_gain: float

    def __post_init__(self) -> None:
        distinct(f"quietstar.families.{self.name}.levels", [str(level) for level in self.levels])
        in_range(f"quietstar.families.{self.name}.min_thought_gain", self.min_thought_gain, -1.0, 1.0)


@dataclass(kw_only=True)
class QuietstarConfig:
    """Baking, reinforcement, and the thresholds of the gates.

    families: to think about. bake: of one round of supervised training, batch_size problems a step; bake_rounds: at
    most, until thoughts are right. text_batch_size: windows of text beside them, in baking and after; text_weight: of
    their loss in baking. rl: see `RLConfig`. validation_problems, test_problems: of each family, which nothing is
    learned from. min_thought_accuracy: share of a thought's tokens that are right, each behind the right ones before
    it, without which nothing is reinforced. min_exact_match_gain: by reinforcement. min_reward_gain: of the last tenth
    of episodes above the first, at the lower end of its interval. max_text_loss: share by which bits per byte of text
    may rise over the whole phase.
    """

    families: list[ThoughtFamily]
    bake: TrainingBudget
    bake_rounds: int
    text_batch_size: int
    text_weight: float
    rl: RLConfig
    validation_problems: int
    test_problems: int
    min_thought_accuracy: float
    min_exact_match_gain: float
    min_reward_gain: float
    max_text_loss: float

    def __post_init__(self) -> None:
        distinct("quietstar.families", [family.name for family in self.families])
        self.bake.check("quietstar.bake")
        in_range("quietstar.bake_rounds", self.bake_rounds, 1, 1000)
        in_range("quietstar.text_batch_size", self.text_batch_size, 1, 65_536)
        in_range("quietstar.text_weight", self.text_weight, 0.0, 100.0)
        in_range("quietstar.validation_problems", self.validation_problems, 1, 100_000)
        in_range("quietstar.test_problems", self.test_problems, 2, 100_000)
        in_range("quietstar.min_thought_accuracy", self.min_thought_accuracy, 0.0, 1.0)
        in_range("quietstar.min_exact_match_gain", self.min_exact_match_gain, -1.0, 1.0)
        in_range("quietstar.min_reward_gain", self.min_reward_gain, -1.0, 1.0)
        in_range("quietstar.max_text_loss", self.max_text_loss, -1.0, 100.0)

    def supervised_budget(self, steps: int) -> TrainingBudget:
        """Of the control: as many steps as reinforcement took, and as many problems in each."""
        return replace(self.bake, steps=steps, batch_size=self.rl.batch_size)
