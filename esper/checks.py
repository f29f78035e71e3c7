"""Checks that every room makes alike; the nearest name to one that is not known."""

import difflib
from collections.abc import Iterable

NEAR = 0.6  # share of letters that two names must have in common, in the same order


QUOTED = "'{}'"


def did_you_mean(word: str, known: Iterable[str], form: str = "{}") -> str:
    """ "; did you mean X?" for the known word nearest to one that is not known, or nothing where none is near.

    Args: form: of the known word, as in "policy.{}"; QUOTED where the message quotes the other.
    """
    by_spelling = {name.lower(): name for name in known if name != word}
    nearest = difflib.get_close_matches(word.lower(), by_spelling, n=1, cutoff=NEAR)
    return f"; did you mean {form.format(by_spelling[nearest[0]])}?" if nearest else ""
