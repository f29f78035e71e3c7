"""Labels of groups: what tells each from the others, in a few words."""

from collections.abc import Iterable, Sequence
from typing import Any

from esper.checks import spelled
from esper.study.compare.run_group import HOW_MANY, RunGroup, decides, differ
from esper.study.runs.rows import chosen_groups

_MOST_WORDS = 4
_LONGEST_WORD = 24


def labels_of(groups: Sequence[RunGroup]) -> list[str]:
    """What tells each group from the others, in a few words: "ppo", "learning_rate 0.1", else the run's id."""
    distinctions = _distinctions(groups)
    chosen: list[int] = []
    labels = [""] * len(groups)
    while len(set(labels)) < len(groups) and len(chosen) < min(_MOST_WORDS, len(distinctions)):
        left = (number for number in range(len(distinctions)) if number not in chosen)
        chosen.append(max(left, key=lambda number: len({*zip(labels, distinctions[number], strict=True)})))
        labels = [_in_words(distinctions[number][index] for number in sorted(chosen)) for index in range(len(groups))]
    further = [number for number in range(len(distinctions)) if number not in chosen][: _MOST_WORDS - len(chosen)]
    shown = sorted([*chosen, *further])
    labels = [_in_words(distinctions[number][index] for number in shown) for index in range(len(groups))]
    return [
        _in_words((label, group.runs[0].folder.name)) if not label or labels.count(label) > 1 else label
        for group, label in zip(groups, labels, strict=True)
    ]


def _distinctions(groups: Sequence[RunGroup]) -> list[list[str]]:
    """All in which groups differ, the policy first: for each thing the words for it, group by group."""
    options = [chosen_groups(group.runs[0].folder, group.runs[0].history.run.get("options") or {}) for group in groups]
    known = dict.fromkeys(name for chosen in options for name in chosen if decides(name))
    choices = {name: [str(chosen.get(name) or "") for chosen in options] for name in known}
    choices = {name: values for name, values in choices.items() if differ(values)}

    def is_of_the_choice(key: str, values: list[Any]) -> bool:
        """Whether an option's name says as much as the value."""
        names = choices.get(key.partition(".")[0], [])
        return bool(names) and len({*zip(names, map(repr, values), strict=True)}) == len(set(names))

    keys = list(dict.fromkeys(key for group in groups for key in group.config if decides(key)))
    keys += [*HOW_MANY, *(["seed"] if all(len(group.runs) == 1 for group in groups) else [])]
    distinctions = [choices[name] for name in sorted(choices, key=lambda name: name != "policy")]
    for key in keys:
        values = [group.config.get(key, ...) for group in groups]
        if differ(values) and not is_of_the_choice(key, values):
            distinctions.append(
                ["" if value is ... else f"{key.rpartition('.')[2]} {_short(value)}" for value in values]
            )
    return distinctions


def _in_words(words: Iterable[str]) -> str:
    return ", ".join(filter(None, words))


def _short(value: Any) -> str:
    """A value in a label; of a path, the last part."""
    text = spelled(value)
    text = text.rstrip("/").rpartition("/")[2] if isinstance(value, str) else text
    return text if len(text) <= _LONGEST_WORD else f"{text[: _LONGEST_WORD - 1]}…"
