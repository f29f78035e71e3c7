"""Splits of text: whole files into training, validation and test, and how much of one text stands in another.

What resembles other files goes to training: a test on text that was trained on measures memory. Resemblance is told by
shingles, all spans of 64 bytes (Broder 1997), of which those count whose hash falls into a fixed share: a span that
occurs twice counts in both places or in neither.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esper.errors import TaskError
from esper.tasks.text.sources import TextFile

SHINGLE_BYTES = 64
MOST_SHARED = 0.2  # of a text's shingles that other files have, lest it be for training alone
TRAIN, VAL, TEST = range(3)
_SAMPLED_BITS = 3  # one shingle in eight counts
_BASE, _MIX = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd, with bits all over

Hashes = NDArray[np.uint64]
Texts = tuple[bytes, bytes, bytes]  # of training, validation and test


def shingles(text: bytes) -> Hashes:
    """Hashes of the text's shingles that count, as often as they occur; of a text shorter than one, none."""
    if len(text) < SHINGLE_BYTES:
        return np.empty(0, np.uint64)
    hashes = np.frombuffer(text, np.uint8).astype(np.uint64) + np.uint64(1)
    base, span = _BASE, 1
    while span < SHINGLE_BYTES:  # of spans twice as long, from those of both halves
        hashes = hashes[:-span] * np.uint64(base) + hashes[span:]
        base, span = base * base % 2**64, 2 * span
    mixed = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(_MIX)
    return mixed[mixed >> np.uint64(64 - _SAMPLED_BITS) == 0]


def _distinct(hashes: Hashes) -> Hashes:
    """Sorted, each once: `np.unique` takes several times as long over many short texts."""
    hashes = np.sort(hashes)
    return hashes[np.append(True, hashes[1:] != hashes[:-1])] if len(hashes) else hashes


def shared_share(text: bytes, others: bytes) -> float:
    """The share of a text's shingles that others have, too."""
    own, known = shingles(text), np.sort(shingles(others))
    if not len(own) or not len(known):
        return 0.0
    place = np.minimum(np.searchsorted(known, own), len(known) - 1)
    return float((known[place] == own).mean())


def resembles_others(files: Sequence[TextFile]) -> list[bool]:
    """By file, whether more than a fifth of the shingles of one of its texts occur in other files."""
    texts = [(place, _distinct(shingles(text))) for place, file in enumerate(files) for text in file.texts.values()]
    if not texts:
        return []
    _, at, counts = np.unique(np.concatenate([own for _, own in texts]), return_inverse=True, return_counts=True)
    is_shared = counts[at] > 1
    found, start = [False] * len(files), 0
    for place, own in texts:
        shared = is_shared[start : start + len(own)]
        start += len(own)
        found[place] |= bool(len(own)) and float(shared.mean()) > MOST_SHARED
    return found


def split_files(files: Sequence[TextFile], sizes: Sequence[int]) -> dict[str, Texts]:
    """The text of each split, by domain. No file is in two of them, but for one that is its domain's only file.

    Each file goes, in the order in which they come, to the split that wants it most; a domain that has less text than
    the splits together is divided in their proportions.

    Args:
        sizes: bytes wanted of the training, validation and test split of each domain.

    Raises: TaskError where a domain has two files, which do not make three splits; or none that may be in one of them.
    """
    by_domain: dict[str, list[bytes]] = {}
    for file in files:
        for domain, text in file.texts.items():
            by_domain.setdefault(domain, []).append(text)
    found = {domain: spans_of(texts[0], sizes) for domain, texts in by_domain.items() if len(texts) == 1}
    filling = {}
    for domain, texts in by_domain.items():
        if len(texts) == 2:
            raise TaskError(
                f"{domain}: two files cannot be divided into three splits\n"
                "  put them into one, of which spans are taken, or add a third"
            )
        if domain not in found:
            filling[domain] = _Filling(_scaled(sum(map(len, texts)), sizes))
    for file, is_alike in zip(files, resembles_others(files), strict=True):
        own = {domain: text for domain, text in file.texts.items() if domain in filling}
        needs = [sum(filling[domain].lacking(split) for domain in own) for split in range(3)]
        split = TRAIN if is_alike else needs.index(max(needs))
        for domain, text in own.items():
            filling[domain].alike += is_alike
            if needs[split] > 0:
                filling[domain].add(split, text)
    for domain, part in filling.items():
        if part.alike and not all(part.have):
            count = len(by_domain[domain])
            raise TaskError(
                f"{domain}: of its {count} files, {part.alike} resemble others, and are for training alone\n"
                "  what is left makes no validation and test split; more text that differs will do"
            )
    return found | {domain: part.texts() for domain, part in filling.items()}


class _Filling:
    """The splits of one domain while they are filled."""

    def __init__(self, wanted: Sequence[int]) -> None:
        self.wanted = wanted
        self.have = [0, 0, 0]
        self.alike = 0  # files
        self.parts: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])

    def lacking(self, split: int) -> float:
        """What is still wanted, as a share of all that is."""
        return max(0.0, 1.0 - self.have[split] / max(1, self.wanted[split]))

    def add(self, split: int, text: bytes) -> None:
        """Put a text behind those that are there."""
        self.parts[split].append(text)
        self.have[split] += len(text)

    def texts(self) -> Texts:
        """As much as is wanted of each."""
        train, val, test = (b"".join(part)[:size] for part, size in zip(self.parts, self.wanted, strict=True))
        return train, val, test


def spans_of(text: bytes, sizes: Sequence[int]) -> Texts:
    """Training, validation and test text: three spans of one text, one after the other."""
    train, val, test = _scaled(min(len(text), sum(sizes)), sizes)
    return text[:train], text[train : train + val], text[train + val : train + val + test]


def _scaled(have: int, sizes: Sequence[int]) -> tuple[int, int, int]:
    """Bytes of each split, in the proportions of `sizes` where there are fewer; training has what rounding leaves."""
    total = sum(sizes)
    if have >= total:
        return sizes[TRAIN], sizes[VAL], sizes[TEST]
    val, test = (have * sizes[split] // total for split in (VAL, TEST))
    return have - val - test, val, test
