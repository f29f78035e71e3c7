"""How a run was set up, as far as it explains what came of it."""

from typing import Any

from esper.errors import FormatError
from esper.files import fitting, parse_yaml
from esper.nissa.formatting import duration
from esper.nissa.report.history import RunHistory

_POLICY = {
    "plant_epochs": ([int], None),
    **dict.fromkeys(("min_training_epochs", "blending_epochs", "probation_epochs"), int),
    "first_plant_epoch": (int, None),
}


def facts(history: RunHistory) -> dict[str, str]:
    """The line under a report's title; what is not known is left out."""
    run, config = history.run, config_of(history)
    options = run.get("options") or {}
    found = {group: str(options.get(group) or _name(config.get(group))) for group in ("policy", "task", "host")}
    found["host"] += _factory(config.get("host"))
    twins = f" + {len(history.twins)} static twins" if history.twins else ""
    found["members"] = f"{len(history.grown)}{twins}" if history.grown else ""
    last = int(history.epochs[-1]) if history.records else 0
    found["epochs"] = f"{last}" if last == history.max_epochs else f"{last} of {history.max_epochs}"
    found["seed"] = str(run.get("seed", ""))
    found["started"] = str(run.get("started_at") or "")[:16].replace("T", " ")
    # Time spent running: a resumed run does not count the time between.
    seconds = run.get("wall_s") or (run.get("summary") or {}).get("wall_s")
    found["took"] = duration(seconds) if seconds else ""
    return {name: value for name, value in found.items() if value}


def why_nothing_was_planted(history: RunHistory) -> str:
    """The reason that the configuration gives, if it does."""
    policy, epochs = config_of(history).get("policy"), history.max_epochs
    if not isinstance(policy, dict):
        return ""
    policy, _ = fitting(policy, _POLICY)
    if policy.get("name") == "static":
        return "policy=static never plants"
    planned = min(policy.get("plant_epochs") or [0])
    if planned > epochs:
        return f"policy.plant_epochs begins with {planned}, and the run has {epochs} epochs"
    life = [
        policy[f"{part}_epochs"] for part in ("min_training", "blending", "probation") if f"{part}_epochs" in policy
    ]
    first = policy.get("first_plant_epoch")
    if first is None or first - 1 + sum(life) <= epochs:
        return ""
    return f"a seed takes {sum(life)} epochs to earn its place, the first from epoch {first} on; the run has {epochs}"


def config_of(history: RunHistory) -> dict[str, Any]:
    """The run's resolved configuration; empty where it cannot be read."""
    try:
        config = parse_yaml(history.config_text)
    except FormatError:
        return {}
    return config if isinstance(config, dict) else {}


def _name(group: Any) -> Any:
    return group.get("name", "") if isinstance(group, dict) else group or ""


def _factory(host: Any) -> str:
    """What builds a host of the user's own."""
    return f" ({host['factory']})" if isinstance(host, dict) and host.get("factory") else ""
