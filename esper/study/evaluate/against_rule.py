"""IQL and the heuristic on the same hosts: how often they agree, and who grows the better ones."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from esper.engine.environment import GrowthVectorEnv
from esper.envs import make_growth_env
from esper.errors import LearnerError
from esper.leyline import Action, Controller, Operation, SeedStage, SimicAction
from esper.nissa.statistics import mean_interval, paired_difference
from esper.printing import say
from esper.simic.comparison import load_iql_model
from esper.simic.iql.controller import IQLController
from esper.simic.iql.model import IQL
from esper.simic.iql.slot_states import action_asked, action_done
from esper.simic.rewards.config import ContributionRewardConfig
from esper.simic.rewards.functions import build_reward
from esper.tamiyo import HeuristicTamiyo

Outcome = dict[str, float]  # of one episode, by name


def live_comparison(
    model_path: str | os.PathLike[str],
    n_episodes: int = 10,
    max_epochs: int = 25,
    device: Any = "cpu",
    *,
    seed: int = 0,
    overrides: Sequence[str] = (),
    verbose: bool = False,
) -> dict[str, Any]:
    """Let the heuristic grow one-slot hosts while IQL says what it would have done.

    The heuristic has its default settings; what a gate refuses it counts as a wait. Episodes run side by side, from
    seeds `seed`, `seed` + 1, ...

    Args: max_epochs: of an episode. overrides: of the configuration, as on the command line. verbose: print a summary.

    Returns: model (path, state_dim, telemetry); episodes; decisions; agreed; agreement (share);
    by_action: name -> heuristic, iql, agreed (counts), agreement (share of the heuristic's);
    by_epoch: the share in each epoch from 1 on. A share of nothing is None.
    """
    model, env, about = _open(model_path, n_episodes, max_epochs, device, seed, overrides)
    catalogue = _catalogue(env)
    rule, shadow = HeuristicTamiyo(catalogue), IQLController(model, catalogue)
    env.growth.restart(range(n_episodes), range(seed, seed + n_episodes))
    (slot,) = env.layout.slots
    counts = np.zeros((max_epochs, len(SimicAction), len(SimicAction)), dtype=np.int64)
    (reports,) = env.epochs.reports()
    for epoch in range(max_epochs):
        imagined = shadow.act(reports)
        judged = [not report.retired for report in reports]
        ((reports, _),) = env.epochs.step([rule.act(reports)])
        for report, other, is_judged in zip(reports, imagined, judged, strict=True):
            done = action_done(report, slot)
            wanted = action_asked(other, slot)
            if is_judged and done is not None and wanted is not None:
                counts[epoch, done.value, wanted.value] += 1
    found = about | {"episodes": n_episodes} | _agreement(counts)
    if verbose:
        say(f"IQL agrees with the heuristic in {found['agreed']} of {found['decisions']} decisions")
    return found


def head_to_head_comparison(
    model_path: str | os.PathLike[str],
    n_episodes: int = 10,
    max_epochs: int = 25,
    device: Any = "cpu",
    *,
    seed: int = 0,
    overrides: Sequence[str] = (),
    verbose: bool = False,
) -> dict[str, Any]:
    """Let the heuristic and IQL grow the same one-slot hosts: the same first weights, the same data in the same order.

    All 2 x n_episodes hosts are one population, which draws each epoch's data once. Arguments as in `live_comparison`.

    Returns: model (path, state_dim, telemetry); outcomes: the names of what is compared;
    episodes: for each its seed, heuristic and iql (name -> value; accuracies in percent, reward: the sum of the
    contribution reward), and winner by test score ("heuristic", "iql" or "tie");
    aggregate: heuristic, iql and difference (iql less heuristic, paired): name -> mean, low, high (95%), n; wins, ties
    and losses of iql.
    """
    model, env, about = _open(model_path, 2 * n_episodes, max_epochs, device, seed, overrides)
    catalogue = _catalogue(env)
    sides: dict[str, Controller] = {"heuristic": HeuristicTamiyo(catalogue), "iql": IQLController(model, catalogue)}
    seeds = range(seed, seed + n_episodes)
    env.growth.restart(range(2 * n_episodes), [*seeds, *seeds])
    outcomes = _play(env, sides, max_epochs)
    pairs = list(zip(outcomes[:n_episodes], outcomes[n_episodes:], strict=True))
    kind = env.growth.task.score
    score = f"test_{kind.name}"
    winners = [_winner(theirs[score] - ours[score]) for ours, theirs in pairs]
    episodes = [
        {"seed": own, "heuristic": ours, "iql": theirs, "winner": winner}
        for own, (ours, theirs), winner in zip(seeds, pairs, winners, strict=True)
    ]
    aggregate = _aggregate(pairs) | {
        "wins": winners.count("iql"),
        "ties": winners.count("tie"),
        "losses": winners.count("heuristic"),
    }
    if verbose:
        gain = aggregate["difference"][score]
        say(f"IQL less heuristic: {gain['mean']:+.2f} points of test {kind.title}, 95% {gain['low']} to {gain['high']}")
    return about | {"outcomes": list(outcomes[0]), "episodes": episodes, "aggregate": aggregate}


def _open(
    path: str | os.PathLike[str], members: int, epochs: int, device: Any, seed: int, overrides: Sequence[str]
) -> tuple[IQL, GrowthVectorEnv, dict[str, Any]]:
    model, _, telemetry = load_iql_model(path, device)
    fixed = [f"epochs={epochs}", f"seed={seed}", f"engine.device={torch.device(device).type}", "controls=[]"]
    env = make_growth_env(["slots=mid", *overrides, *fixed], members=members)
    if len(env.layout.slots) != 1:
        raise LearnerError(f"The comparison is of one slot, and overrides give {', '.join(env.layout.slots)}.")
    return model, env, {"model": {"path": str(path), "state_dim": model.state_dim, "telemetry": telemetry}}


def _catalogue(env: GrowthVectorEnv) -> list[tuple[str, int]]:
    """The layout's blueprints are in the order of their size, and rules ask for no more than that order."""
    return [(name, size) for size, name in enumerate(env.layout.blueprints)]


def _agreement(counts: NDArray[np.int64]) -> dict[str, Any]:
    """Args: counts [T, A, A] of decisions: by epoch, what the heuristic did and what IQL wanted."""
    agreed = counts.diagonal(axis1=1, axis2=2)  # [T, A]
    done, wanted, alike = counts.sum((0, 2)), counts.sum((0, 1)), agreed.sum(0)
    return {
        "decisions": int(counts.sum()),
        "agreed": int(agreed.sum()),
        "agreement": _share(agreed.sum(), counts.sum()),
        "by_action": {
            action.name: {
                "heuristic": int(done[action.value]),
                "iql": int(wanted[action.value]),
                "agreed": int(alike[action.value]),
                "agreement": _share(alike[action.value], done[action.value]),
            }
            for action in SimicAction
        },
        "by_epoch": list(map(_share, agreed.sum(1), counts.sum((1, 2)))),
    }


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None


def _play(env: GrowthVectorEnv, sides: Mapping[str, Controller], epochs: int) -> list[Outcome]:
    """Let each side act on its share of the members, in order, to the end of their episodes."""
    reward = build_reward(ContributionRewardConfig())
    (reports,) = env.epochs.reports()
    share = len(reports) // len(sides)
    earned, planted = [0.0] * len(reports), [0] * len(reports)
    for _ in range(epochs):
        before = reports
        actions: list[Action] = []
        for number, controller in enumerate(sides.values()):
            actions += controller.act(before[number * share : (number + 1) * share])
        ((reports, _),) = env.epochs.step([actions])
        for member, after in enumerate(reports):
            earned[member] += reward(before[member], after)
            planted[member] += after.action.operation is Operation.GERMINATE and not after.is_refused
    (tested,) = env.epochs.test()
    kind = env.growth.task.score.name
    return [
        {
            f"test_{kind}": score,
            f"val_{kind}": report.val_accuracy,
            "reward": earned[member],
            "parameters": report.parameter_count,
            "flops_per_sample": report.flops_per_sample,
            "planted": planted[member],
            "fossilized": sum(seed.stage is SeedStage.FOSSILIZED for seed in report.slots.values()),
        }
        for member, (report, score) in enumerate(zip(reports, tested.score.tolist(), strict=True))
    ]


def _winner(margin: float) -> str:
    return "tie" if margin == 0 else "iql" if margin > 0 else "heuristic"


def _aggregate(pairs: Sequence[tuple[Outcome, Outcome]]) -> dict[str, Any]:
    """Of (heuristic, iql): the mean of every outcome with its interval, and of the paired difference."""
    found: dict[str, Any] = {"heuristic": {}, "iql": {}, "difference": {}}
    for name in pairs[0][0]:
        ours, theirs = ([side[name] for side in column] for column in zip(*pairs, strict=True))
        found["heuristic"][name] = mean_interval(ours).to_dict()
        found["iql"][name] = mean_interval(theirs).to_dict()
        found["difference"][name] = paired_difference(theirs, ours).to_dict()
    return found
