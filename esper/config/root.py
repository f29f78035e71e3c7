"""The whole configuration of a run."""

import re
from dataclasses import dataclass, field

from esper.checks import in_range, one_of, require
from esper.config.blueprint import BlueprintConfig, check_blueprints
from esper.config.checkpoint import CheckpointConfig
from esper.config.engine import EngineConfig
from esper.config.gates import RunGatesConfig
from esper.config.host import HOSTS, HostConfig
from esper.config.optimizer import RunOptimizerConfig
from esper.config.slots import SlotsConfig
from esper.config.telemetry import TelemetryConfig
from esper.errors import ConfigError
from esper.leyline.blueprints import blueprint_names
from esper.leyline.controls import CONTROLS, FINALS, TWIN
from esper.simic.rewards.config import RewardConfig
from esper.tamiyo.settings import PolicyConfig
from esper.tasks.settings import KEEPS, BaseTaskConfig


@dataclass(kw_only=True)
class RunConfig:
    """Values live in conf/; a field without a value there is an error."""

    name: str
    seed: int
    epochs: int
    batch_size: int
    resume: str | None
    controls: list[str]
    plugins: list[str] = field(default_factory=list)
    task: BaseTaskConfig
    host: HostConfig
    slots: SlotsConfig
    blueprint: BlueprintConfig
    gates: RunGatesConfig
    policy: PolicyConfig
    reward: RewardConfig
    optimizer: RunOptimizerConfig
    engine: EngineConfig
    checkpoint: CheckpointConfig
    telemetry: TelemetryConfig

    def __post_init__(self) -> None:
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name)
        require(
            plain is not None, "name", self.name, "letters, digits, dots, dashes and underscores (it names a folder)"
        )
        in_range("seed", self.seed, 0, 2**31 - 1)
        in_range("epochs", self.epochs, 1, 1_000_000)
        in_range("batch_size", self.batch_size, 1, 1_000_000)
        for control in self.controls:
            one_of("controls", control, CONTROLS)
        require(len({*self.controls}) == len(self.controls), "controls", self.controls, "each of them once")
        one_of("task.keep", self.task.keep, KEEPS)
        if self.task.inputs:
            self.check_inputs(self.task.inputs)
        gamma = getattr(self.policy, "gamma", self.reward.discount)
        if gamma != self.reward.discount:
            raise ConfigError(
                f"policy.gamma={gamma} and reward.discount={self.reward.discount} must be the same: a reward that is "
                "shaped for another discount changes what is best"
            )
        if self.resume is not None:
            raise ConfigError(f"resume={self.resume}: belongs on the command line: python -m esper.run resume=RUN_DIR")

    @property
    def has_twins(self) -> bool:
        """Whether each grown member has a static twin beside it."""
        return TWIN in self.controls

    @property
    def finals(self) -> list[str]:
        """The controls that train what members have grown into, from scratch."""
        return [control for control in FINALS if control in self.controls]

    def check_inputs(self, inputs: str) -> None:
        """Raise ConfigError where the host takes no such data. inputs: its kind, see `BaseTaskConfig.inputs`."""
        if self.host.inputs and inputs not in self.host.inputs:
            fitting = [f"host={name}" for name, host in HOSTS.items() if inputs in host.inputs]
            raise ConfigError(
                f"host={self.host.name}: takes {' or '.join(self.host.inputs)}, and task={self.task.name} gives "
                f"{inputs}; choose {' or '.join(fitting or ['host=custom'])}, or another task"
            )

    def check_fit(self) -> None:
        """Raise ConfigError where the host has no such slots, or cannot take the task's images."""
        self.host.check_slots(self.slots.names)
        self.host.check_image(self.task.side_pixels)

    def check_names(self) -> None:
        """As `check_fit`, of blueprints, too: all that can be refused before anything heavy is loaded.

        A network of the user's own may bring its own blueprints, so there they are left to the registry. Raises
        ConfigError and BlueprintError.
        """
        self.check_fit()
        if self.host.topology:
            check_blueprints(self.blueprint, self.policy, self.host.topology, blueprint_names())
