"""Stored checkpoints of runs, ready to be evaluated."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esper.builders.loading import learned_part
from esper.builders.policy import build_policy
from esper.builders.population import DEFAULT_THREADS, Grown, build_growth, check_precision, pick_device
from esper.checkpoint import Checkpoint, CheckpointManager, restoring
from esper.checkpoint.bundle import bundle_paths
from esper.checkpoint.plain import fingerprint
from esper.checkpoint.sidecar import read_sidecar
from esper.checks import did_you_mean
from esper.config.composing import from_plain, load_plugins_of, to_plain
from esper.config.explain import explain
from esper.config.root import RunConfig
from esper.config.store import VOLATILE
from esper.config.suite import GrowthSuite
from esper.engine.growth import Growth
from esper.errors import CheckpointError, ConfigError, FormatError, RunError
from esper.files import fitting, parse_yaml, read_object
from esper.files.records import CONFIG_FILE, RUN, RUN_FILE
from esper.leyline import Controller
from esper.printing import say
from esper.runner.records import CHECKPOINT
from esper.simic.iql.config import IQLPolicyConfig
from esper.simic.iql.controller import IQLController
from esper.simic.iql.model import IQL
from esper.simic.on_policy.config import LEARNERS, LearnedPolicyConfig
from esper.simic.on_policy.controller import LearnedController
from esper.study.evaluate.targets import Target


@dataclass(frozen=True, slots=True)
class Stored:
    """One checkpoint of a run. policy: as the run was told, an option's name where it is known."""

    run: Path
    uid: str
    policy: str
    checkpoint: Checkpoint
    config: RunConfig

    @property
    def epoch(self) -> int:
        """The checkpoint's number."""
        return self.checkpoint.epoch or 0

    @property
    def tensors_sha256(self) -> str:
        """Of the checkpoint's .safetensors file."""
        return str(self.checkpoint.sidecar["tensors_sha256"])

    @property
    def sha256(self) -> str:
        """Of the tensors and of the configuration under which they are used: what makes it this version."""
        config = {key: value for key, value in to_plain(self.config).items() if key not in VOLATILE}
        return fingerprint({"tensors": self.tensors_sha256, "config": config})

    @property
    def is_rule(self) -> bool:
        """Whether nothing was learned: the configuration alone decides."""
        return not isinstance(self.config.policy, LearnedPolicyConfig | IQLPolicyConfig)

    def configuration(self, suite: GrowthSuite, seed: int) -> RunConfig:
        """Of the hosts that grow on a held-out seed, on the engine that the run found best. Raises ConfigError."""
        config = self._here(_with_overrides(self.config, suite))
        engine = replace(config.engine, members=suite.members)
        return replace(config, seed=seed, controls=[], engine=engine)

    def controller(self, config: RunConfig, grown: Grown) -> Controller:
        """The stored one, at the beginning of its work. Raises EsperError where it does not fit what grows."""
        match config.policy:
            case LearnedPolicyConfig() as settings:
                encoder, layout = grown.encoder(), grown.layout(settings.blends)
                learner = LEARNERS.build(settings, features=encoder.names, layout=layout, seed=config.seed)
                with restoring(self.checkpoint, CHECKPOINT):
                    learner.load_state(*learned_part(self.checkpoint, "learner"), policy_only=True)
                return LearnedController(learner, encoder, layout, settings.deterministic, config.seed)
            case IQLPolicyConfig() as settings:
                with restoring(self.checkpoint, CHECKPOINT):
                    model = IQL.from_state(*learned_part(self.checkpoint, "model"))
                return IQLController(model, grown.catalogue, settings)
        return build_policy(config, grown)[0]

    def hosts(self) -> Growth:
        """The run's population as it was stored. Raises EsperError where nothing has been trained yet."""
        with restoring(self.checkpoint, CHECKPOINT):
            if not self.checkpoint.state["growth"]["epoch"]:
                raise RunError(
                    f"{self.run}@epoch-{self.epoch}: its hosts have not been trained yet; take a later checkpoint"
                )
            growth = build_growth(self._here(self.config)).local_growth
            growth.load_state(dict(self.checkpoint.tensors), self.checkpoint.state["growth"])
        return growth

    def _here(self, config: RunConfig) -> RunConfig:
        """On this machine, and on the engine that the run has chosen: nothing is measured anew."""
        device = pick_device("auto")
        check_precision(config.engine.precision, device)
        with restoring(self.checkpoint, CHECKPOINT):
            chosen = self.checkpoint.metadata["engine"]
            engine = replace(config.engine, kind=chosen["kind"], threads=min(chosen["threads"], DEFAULT_THREADS))
        return replace(config, engine=replace(engine, device=device.type))


def read_stored(target: Target) -> Stored:
    """The checkpoint that a target names. Raises CheckpointError where there is no such sound one."""
    run, manager, record = target.run, CheckpointManager(target.run), _record(target.run)
    if target.epoch is not None:
        checkpoint = _of_epoch(manager, target.epoch, record)
    elif target.metric is not None:
        checkpoint = manager.load_agent(_best(manager, target.metric, f"{run}@best:{target.metric}"))
    else:
        checkpoint = manager.load_latest_agent()
        for unsound in checkpoint.skipped:
            say(f"skipped the checkpoint of epoch {unsound.epoch}: {unsound.reason}", is_error=True)
    if checkpoint.kind != "population":
        raise CheckpointError(f"{checkpoint.path}: is of kind {checkpoint.kind!r}; expected the checkpoint of a run")
    load_plugins_of(run / CONFIG_FILE)
    config = from_plain(checkpoint.config, str(checkpoint.path))
    policy = (record.get("options") or {}).get("policy") or config.policy.name
    return Stored(run, str(record.get("uid") or record.get("id") or run.name), str(policy), checkpoint, config)


def _record(run: Path) -> dict[str, Any]:
    try:
        return fitting(read_object(run / RUN_FILE), RUN)[0]
    except (OSError, FormatError) as error:
        raise RunError(f"{run / RUN_FILE}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _of_epoch(manager: CheckpointManager, epoch: int, record: dict[str, Any]) -> Checkpoint:
    try:
        return manager.load_agent(epoch)
    except CheckpointError as error:
        updates = record.get("max_updates")
        if not updates or epoch in manager.list_epochs():
            raise
        raise CheckpointError(
            f"{error}\n  checkpoints count the policy's {updates} updates, too: that of epoch 1 is epoch-{updates + 1}"
        ) from error


def _best(manager: CheckpointManager, metric: str, text: str) -> int:
    """The checkpoint with the best value of this metric: the lowest loss, the highest of anything else."""
    epoch = manager.best(metric, "min" if "loss" in metric else "max")
    if epoch is not None:
        return epoch
    known: set[str] = set()
    for kept in manager.list_epochs():
        try:
            metrics = read_sidecar(bundle_paths(manager.path(kept))[1])["metrics"]
        except CheckpointError:
            continue
        known |= {name for name, value in metrics.items() if value is not None}
    raise CheckpointError(
        f"{text}: no sound checkpoint has {metric}{did_you_mean(metric, known)}\n"
        f"  they have: {', '.join(sorted(known)) or 'no metrics'}"
    )


def _with_overrides(config: RunConfig, suite: GrowthSuite) -> RunConfig:
    """The configuration with a suite's changes, checked as a command line is. Raises ConfigError naming the suite."""
    if not suite.overrides:
        return config
    where = f"suite {suite.name}"
    changed = OmegaConf.create(to_plain(config))
    for override in suite.overrides:
        key, _, value = (part.strip() for part in override.partition("="))
        try:
            if OmegaConf.is_dict(OmegaConf.select(changed, key)):
                raise ConfigError(f"this is a group of keys; set one of them: {key}.KEY=VALUE")
            OmegaConf.update(changed, key, parse_yaml(value), merge=False)
        except (ConfigError, OmegaConfBaseException, ValueError, TypeError) as error:
            raise ConfigError(f"{where}: {override}: {explain(error, ())}") from error
    return from_plain(OmegaConf.to_container(changed), where)
