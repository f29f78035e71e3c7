"""Which seeds are held out: those that a stored policy or host has neither learned nor been validated on."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from esper.builders.policy import VALIDATION_SEED
from esper.checkpoint import Checkpoint, CheckpointManager, restoring
from esper.config.composing import from_plain, load_plugins_of, read_config
from esper.config.root import RunConfig
from esper.engine.environment import episode_seed
from esper.errors import ConfigError, EsperError
from esper.files import checked
from esper.files.records import CONFIG_FILE, EPOCHS, RUN_FILE
from esper.simic.iql.config import IQLPolicyConfig
from esper.simic.on_policy.config import LearnedPolicyConfig

_BEGUN = {"steps": int, "episodes": EPOCHS}  # of what a policy has learned from


@dataclass(slots=True)
class SeenSeeds:
    """Seeds by what they were for; `unknown`: what was learned from, and is gone, so that its seeds are not known."""

    learned: set[int] = field(default_factory=set)
    validated: set[int] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)


def seen_seeds(checkpoint: Checkpoint) -> SeenSeeds:
    """Every seed that this checkpoint owes something to: its run's, of its episodes, of runs it learned from."""
    seen = SeenSeeds()
    _add(seen, checkpoint, set())
    return seen


def check_held_out(seeds: Iterable[int], seen: SeenSeeds, suite: str) -> None:
    """Raises ConfigError naming a seed that is not held out."""
    wanted = set(seeds)
    for what, known in (("learned", seen.learned), ("was validated", seen.validated)):
        if clash := sorted(wanted & known):
            raise ConfigError(
                f"suite {suite}: seed {clash[0]} is one that this run {what} on, and is not held out\n"
                "  give a suite of your own another first_seed (docs/evaluation.md)"
            )


def _add(seen: SeenSeeds, checkpoint: Checkpoint, visited: set[Path]) -> None:
    if checkpoint.path is not None:
        load_plugins_of(checkpoint.path.parents[1] / CONFIG_FILE)
    config = from_plain(checkpoint.config, str(checkpoint.path))
    seen.learned.add(config.seed)
    policy = config.policy
    if isinstance(policy, LearnedPolicyConfig) and policy.updates:
        seen.learned |= _episodes(config.seed, [_begun(checkpoint, config, policy)] * policy.members)
        if policy.validate_every:
            seed = config.seed + VALIDATION_SEED
            most = config.epochs + 1  # begun in a validation: an episode takes an epoch at least
            seen.validated |= {seed} | _episodes(seed, [most] * policy.validation_episodes)
    if isinstance(policy, IQLPolicyConfig) and policy.load is None:
        for folder in policy.dataset:
            _add_recorded(seen, Path(folder))
    if isinstance(policy, LearnedPolicyConfig | IQLPolicyConfig) and policy.load is not None:
        _add_loaded(seen, Path(policy.load), visited)


def _add_recorded(seen: SeenSeeds, folder: Path) -> None:
    """The seed of a run whose record was learned from."""
    try:
        seen.learned.add(read_config(folder / CONFIG_FILE).seed)
    except EsperError:
        seen.unknown.append(str(folder))


def _add_loaded(seen: SeenSeeds, path: Path, visited: set[Path]) -> None:
    """The seeds behind a policy that was loaded; a file of its own tells none."""
    if path.resolve() in visited:
        return
    visited.add(path.resolve())
    try:
        if not (path / RUN_FILE).is_file():
            raise EsperError("no run")
        _add(seen, CheckpointManager(path).load_latest_agent(), visited)
    except EsperError:
        seen.unknown.append(str(path))


def _begun(checkpoint: Checkpoint, config: RunConfig, policy: LearnedPolicyConfig) -> int:
    """The most episodes that a member can have begun to learn from: all that fit, and those that ended early."""
    with restoring(checkpoint):
        learning = checked(checkpoint.state.get("learning") or None, (_BEGUN, None), "learning")
    if not learning or not learning["steps"]:
        return 0
    whole = learning["steps"] // policy.members // config.epochs
    return int(learning["episodes"] - whole * policy.members + whole + 1)


def _episodes(seed: int, begun: Iterable[int]) -> set[int]:
    """Seeds of the episodes of an environment, of which each member has begun so many."""
    return {episode_seed(seed, member, number) for member, count in enumerate(begun) for number in range(count)}
