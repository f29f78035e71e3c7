"""Policies: which of the stored versions are training runs of one policy, and what policies are called."""

import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from esper.config.checks import flat
from esper.study.analyze.results import SHORT

_MOST_KEYS = 2  # of a configuration, that tell policies apart in a title


def checkpoints_of(version: dict[str, Any]) -> list[str]:
    """Of every run that has the version, as `esper evaluate` takes them."""
    return [f"{source['path']}@epoch-{source['epoch']}" for source in version["sources"]]


def policies_of(versions: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Versions that tell of one policy: their configurations differ in nothing but the seed that they learned on.

    Where a run is there with several checkpoints, those of one number belong together; and what has neither seed nor
    number of its own stands alone.
    """
    found = []
    for of_policy in _grouped(versions, lambda version: version["policy"]):
        for same in _grouped(of_policy, _without_seed) if len(of_policy) > 1 else [of_policy]:
            for group in [same] if _are_of_own_seeds(same) else _grouped(same, _checkpoint_number):
                found += [group] if _are_of_own_seeds(group) else [[version] for version in group]
    places = {version["id"]: place for place, version in enumerate(versions)}
    return sorted(found, key=lambda group: places[group[0]["id"]])


def _grouped(
    versions: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], Hashable]
) -> list[list[dict[str, Any]]]:
    groups: dict[Hashable, list[dict[str, Any]]] = {}
    for version in versions:
        groups.setdefault(key(version), []).append(version)
    return list(groups.values())


def _are_of_own_seeds(versions: Sequence[dict[str, Any]]) -> bool:
    return len({version["config"].get("seed") for version in versions}) == len(versions)


def _checkpoint_number(version: dict[str, Any]) -> int | None:
    return next((source["epoch"] for source in version["sources"]), None)


def _without_seed(version: dict[str, Any]) -> str:
    """What decides of its configuration but for the seed, spelled."""
    config = _decisive(version["config"])
    return json.dumps({key: value for key, value in config.items() if key != "seed"}, sort_keys=True)


def titles_of(policies: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """ "ppo"; where others have that policy too, "ppo, learning_rate 0.1", or with its checkpoint, or its sha256."""
    titles = [""] * len(policies)
    by_policy: dict[str, dict[int, dict[str, Any]]] = {}
    for place, (version, *_) in enumerate(policies):
        by_policy.setdefault(version["policy"], {})[place] = version
    for policy, same in by_policy.items():
        versions = list(same.values())
        texts = _differences(versions) if len(same) > 1 else [""]
        if len(set(texts)) < len(same):
            texts = [" ".join(name.rpartition("/")[2] for name in checkpoints_of(version)[:1]) for version in versions]
        if len(set(texts)) < len(same):
            texts = [version["sha256"][:SHORT] for version in versions]
        for place, words in zip(same, texts, strict=True):
            titles[place] = ", ".join(filter(None, (policy, words)))
    return titles


def _differences(versions: Sequence[dict[str, Any]]) -> list[str]:
    """What tells the configurations apart, as in "patience 3"; nothing where that takes many keys."""
    configs = [flat(_decisive(version["config"])) for version in versions]
    keys = [
        key
        for key in dict.fromkeys(key for config in configs for key in config)
        if key != "seed" and any(config.get(key) != configs[0].get(key) for config in configs)
    ]
    if len(keys) > _MOST_KEYS:
        return [""] * len(versions)
    return [", ".join(f"{key.rpartition('.')[2]} {config.get(key)}" for key in keys) for config in configs]


def _decisive(config: dict[str, Any]) -> dict[str, Any]:
    from esper.config.store import VOLATILE  # brings Hydra, and is seldom needed

    return {key: value for key, value in config.items() if key not in VOLATILE}
