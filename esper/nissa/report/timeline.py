"""Timelines of seeds, told from records and events: which stage when, and how and why each one ended."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from esper.leyline import SeedStage, is_failure_stage
from esper.nissa.report.history import RunHistory

# Into these a seed may go at the start of an epoch, when the controller acts; into all others at its end, by itself.
_ENTERED_AT_START = frozenset(
    {SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.FOSSILIZED, SeedStage.CULLED}
)
_EVENT_STAGES = {
    "germinated": SeedStage.GERMINATED,
    "fossilized": SeedStage.FOSSILIZED,
    "culled": SeedStage.CULLED,
}
_ENDS = {SeedStage.FOSSILIZED: "fossilised", SeedStage.CULLED: "culled"}


# What esper.kasmina.gates calls its checks, as a person would say it; figures last, so that they can be left out.
_CHECKS = {
    "seed_id_ok": "it has a name",
    "seed_id_missing": "it has no name",
    "blueprint_id_ok": "its blueprint is known",
    "blueprint_id_missing": "it has no blueprint",
    "planted": "it was just planted",
    "not_planted_(.+)": "it was not just planted, but {}",
    "healthy": "it is sound",
    "unhealthy": "it is not sound",
    "global_improvement_low_(.+)%": "the member gained too little: {} points",
    "global_improvement_(.+)%": "the member gained {} points",
    "isolation_ok": "no gradient leaked upstream",
    "isolation_violations_(.+)": "gradient leaked upstream: {} times",
    "seed_ready_(.+)_epochs": "it trained for {} epochs",
    "seed_not_ready_(.+)_epochs": "it trained too briefly: {} epochs",
    "seed_gradient_active_(.+)": "its gradients are alive: {} of the host's",
    "seed_gradient_low_(.+)": "its gradients are too weak beside the host's: {}",
    "alpha_low_(.+)": "its share is not whole: {}",
    "alpha_(.+)": "its share is {}",
    "probation_short_(.+)_epochs": "it was on probation too briefly: {} epochs",
    "probation_(.+)_epochs": "it was on probation for {} epochs",
    "contribution_unknown": "what it is worth was not measured",
    "contribution_low_(.+)%": "it is worth too little: {} points",
    "contribution_(.+)%": "it is worth {} points",
}


@dataclass(slots=True)
class Segment:
    """A slot in one stage from the end of epoch `start` to the end of epoch `end`.

    `names_seed` marks one segment of each seed, the longest of its life: there is room for a name.
    """

    stage: SeedStage
    start: int
    end: int
    seed: str
    blueprint: str
    names_seed: bool = False


@dataclass(slots=True)
class SeedStory:
    """One seed from planting to its end. `outcome`: "growing", "fossilised", "culled" or "rolled back"."""

    member: int
    slot: str
    seed: str
    planted: int
    blueprint: str = ""
    blend: str = ""
    why_planted: str = ""
    outcome: str = "growing"
    ended: int | None = None
    why_ended: str = ""


def segments(history: RunHistory, member: int, slot: str) -> list[Segment]:
    """The stages of one slot in order, dormancy left out; each epoch belongs to the stage it was trained in."""
    changes: dict[int, list[tuple[SeedStage, dict[str, Any]]]] = defaultdict(list)
    for event in history.events:
        if event.get("member") == member and event.get("slot") == slot and (stage := entered_stage(event)):
            changes[event["epoch"]].append((stage, event))
    stages = [_stage(name) for name in history.slot_series(member, slot, "stage")]
    seeds = history.slot_series(member, slot, "seed")
    blueprints = history.slot_series(member, slot, "blueprint")
    epochs_in_stage = history.slot_series(member, slot, "epochs_in_stage")
    rolled_back = history.member_series(member, "rolled_back")
    found: list[Segment] = []
    for now in range(1, len(stages)):
        start, end = int(history.epochs[now - 1]), int(history.epochs[now])
        stage, seed, blueprint = stages[now], seeds[now] or "", blueprints[now] or ""
        if end in changes or rolled_back[now]:
            stage, seed, blueprint = stages[now - 1], seeds[now - 1] or "", blueprints[now - 1] or ""
            for entered, event in changes.get(end, ()):
                if entered not in _ENTERED_AT_START or (entered is stages[now] and epochs_in_stage[now] == 0):
                    break  # at the end of this epoch: a seed culled for its health, say
                stage, seed = entered, event.get("seed") or seed
                blueprint = event.get("data", {}).get("blueprint") or blueprint or blueprints[now] or ""
        if stage is SeedStage.DORMANT:
            continue
        last = found[-1] if found else None
        if last and last.end == start and last.stage is stage and last.seed == seed:
            last.end = end
        else:
            found.append(Segment(stage, start, end, seed, blueprint))
    for name in {part.seed for part in found}:
        own = (part for part in found if part.seed == name)
        max(own, key=lambda part: (not is_failure_stage(part.stage), part.end - part.start)).names_seed = True
    return found


def seed_stories(events: Iterable[dict[str, Any]]) -> list[SeedStory]:
    """Every seed that was planted, in order of planting, as the events tell it. Rollbacks undo what they undid."""
    stories: list[SeedStory] = []
    live: dict[tuple[Any, Any, Any], SeedStory] = {}
    checks: dict[str, list[str]] = {}
    for event in events:
        data, epoch, seed = event.get("data") or {}, event.get("epoch", 0), event.get("seed", "")
        key = (event.get("member"), event.get("slot"), seed)
        if event.get("type") == "gate_evaluated":
            checks[seed] = data.get("checks_passed" if data.get("passed") else "checks_failed") or []
        elif event.get("type") == "governor_rollback":
            _undo(stories, event.get("member"), data.get("to_epoch", epoch))
        elif (stage := entered_stage(event)) is SeedStage.GERMINATED:
            story = live.get(key)
            if story is None or story.planted != epoch:
                story = live[key] = SeedStory(event.get("member", 0), event.get("slot", ""), seed, epoch)
                stories.append(story)
            story.blueprint = story.blueprint or data.get("blueprint", "")
            story.blend = story.blend or data.get("blend", "")
            story.why_planted = story.why_planted or _why(event)
        elif stage in _ENDS and key in live:
            story = live[key]
            story.outcome, story.ended = _ENDS[stage], epoch
            story.why_ended = story.why_ended or _why(event) or ", ".join(check_text(c) for c in checks.get(seed, []))
    return stories


def _undo(stories: list[SeedStory], member: int | None, to_epoch: int) -> None:
    for story in stories:
        if story.member == member and story.planted > to_epoch and story.outcome != "rolled back":
            story.outcome, story.ended, story.why_ended = "rolled back", None, "the governor undid its planting"
        elif story.member == member and story.ended is not None and story.ended > to_epoch:
            story.outcome, story.ended, story.why_ended = "growing", None, ""


def check_text(check: str) -> str:
    """A gate's check in words: "global_improvement_low_0.20%" -> "the member gained too little: 0.20 points"."""
    for pattern, words in _CHECKS.items():
        if found := re.fullmatch(pattern, check):
            return words.format(*found.groups())
    return check.replace("_", " ")


def entered_stage(event: dict[str, Any]) -> SeedStage | None:
    """The stage that a seed entered by this event, if it tells of one."""
    if event.get("type") == "stage_changed":
        return _stage((event.get("data") or {}).get("to"), unknown=None)
    return _EVENT_STAGES.get(str(event.get("type")))


def _stage(name: str | None, unknown: SeedStage | None = SeedStage.DORMANT) -> Any:
    return SeedStage[name] if name is not None and name in SeedStage.__members__ else unknown


def _why(event: dict[str, Any]) -> str:
    return str((event.get("data") or {}).get("reason") or event.get("message") or "")
