"""From the overrides of a sweep to those of each of its jobs."""

import itertools
from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from esper.checks import did_you_mean
from esper.sweep.errors import SweepError


def expand(overrides: Sequence[Override], zipped: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[str]]:
    """Each job's overrides, and the keys that are swept.

    overrides: parsed; the last one of a key counts. zipped: groups of keys whose values go in pairs; all else is
    combined with all else, the last key fastest. Raises SweepError.
    """
    last = {override.get_key_element(): override for override in overrides}
    swept = {override.key_or_group: _values(override) for override in last.values() if override.is_sweep_override()}
    group_of = _groups(zipped, swept)
    choices: dict[object, list[list[str]]] = {}  # of a key or a group of them: the overrides that each choice sets
    for key, override in last.items():
        rows = [[line] for line in swept.get(override.key_or_group, [str(override.input_line)])]
        group = group_of.get(override.key_or_group, key)
        before = choices.get(group, [[]] * len(rows))
        choices[group] = [[*first, *then] for first, then in zip(before, rows, strict=True)]
    jobs = [list(itertools.chain(*rows)) for rows in itertools.product(*choices.values())]
    return jobs, list(swept)


def _values(override: Override) -> list[str]:
    """A swept key's overrides, one for each value."""
    if not override.is_discrete_sweep():
        raise SweepError(f"{override.input_line}: this sweeper runs lists, choice(), range() and glob(), nothing else")
    values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    if not values:
        raise SweepError(f"{override.input_line}: this gives no value at all")
    return values


def _groups(zipped: Sequence[Sequence[str]], swept: dict[str, list[str]]) -> dict[str, int]:
    """Which group of pairs a key belongs to."""
    group_of: dict[str, int] = {}
    for number, keys in enumerate(zipped):
        for key in keys:
            if key not in swept:
                hint = did_you_mean(key, swept) or f"; swept are: {', '.join(swept) or 'none'}"
                raise SweepError(f"zip: {key} has no values to go through{hint}")
            if key in group_of:
                raise SweepError(f"zip: {key} is named twice")
            group_of[key] = number
        lengths = {key: len(swept[key]) for key in keys}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {count}" for key, count in lengths.items())
            raise SweepError(f"zip: values that go in pairs must be equally many; {counts}")
    return group_of
