import itertools
import random

import numpy as np
import pytest

from esper.errors import TaskError
from esper.tasks.text.sources import TextFile
from esper.tasks.text.splits import TEST, TRAIN, VAL, resembles_others, shared_share, shingles, spans_of, split_files


def noise(seed, size):
    return random.Random(seed).randbytes(size)


def files(*texts, domain="d"):
    return [TextFile(str(place), {domain: text}) for place, text in enumerate(texts)]


def places(texts, parts):
    """In which splits each text is."""
    return [[split for split in range(3) if text[:200] in parts[split]] for text in texts]


def test_a_shingle_is_64_bytes_wherever_they_stand():
    span = noise(0, 64)
    every = [noise(seed, 64) for seed in range(400)]
    counted = [text for text in every if len(shingles(text))]
    assert 30 < len(counted) < 75  # one in eight
    text = counted[0]
    for before, behind in ((b"", b"x" * 70), (b"y" * 131, b""), (noise(1, 999), noise(2, 999))):
        assert np.isin(shingles(text), shingles(before + text + behind)).all()
    assert not np.isin(shingles(text), shingles(text[:63] + bytes([text[63] ^ 1]))).any()
    assert len(shingles(span[:63])) == len(shingles(b"")) == 0
    assert len({*shingles(b"".join(every)).tolist()}) == len(shingles(b"".join(every)))


def test_the_share_of_a_text_that_others_have():
    text, other = noise(3, 20_000), noise(4, 20_000)
    assert shared_share(text, other) == shared_share(b"", other) == shared_share(text, b"") == 0.0
    assert shared_share(text, other + text) == 1.0
    assert shared_share(text[:5000] + other, b"." + text) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(("share", "is_alike"), [(0.0, False), (0.1, False), (0.35, True), (1.0, True)])
def test_a_file_resembles_others_above_a_fifth(share, is_alike):
    text, other = noise(5, 20_000), noise(6, 200_000)
    copied = int(share * 20_000)
    assert resembles_others(files(other[:copied] + text[copied:], other)) == [is_alike, False]
    assert resembles_others(files(text, *[b"short"] * 3)) == [False] * 4
    assert resembles_others([]) == []


def test_one_text_that_resembles_others_takes_its_whole_file_along():
    common, own = noise(7, 5000), [noise(seed, 5000) for seed in range(8, 11)]
    others = [TextFile("one", {"a": own[1]}), TextFile("two", {"b": common})]
    for texts in ({"a": own[0], "b": common}, {"b": common, "a": own[0]}):
        assert resembles_others([TextFile("pair", texts), *others]) == [True, False, True]


def test_no_file_is_in_two_splits_and_each_split_gets_its_share():
    texts = [noise(seed, 300 + 7 * seed) for seed in range(100)]
    parts = split_files(files(*texts), (30_000, 4000, 5000))["d"]
    assert [len(part) for part in parts] == [30_000, 4000, 5000]
    found = places(texts, parts)
    assert all(len(splits) <= 1 for splits in found)
    assert {split for splits in found for split in splits} == {TRAIN, VAL, TEST}
    assert parts == split_files(files(*texts), (30_000, 4000, 5000))["d"]


def test_less_text_than_the_splits_is_divided_in_their_proportions():
    texts = [noise(seed, 1000) for seed in range(100)]
    parts = split_files(files(*texts), (800_000, 100_000, 100_000))["d"]
    assert [len(part) for part in parts] == pytest.approx([80_000, 10_000, 10_000], abs=1000)
    assert all(len(splits) == 1 for splits in places(texts, parts))


def test_a_file_is_in_one_split_for_all_domains():
    both = [TextFile(str(n), {"a": noise(n, 1000), "b": noise(1000 + n, 500)}) for n in range(60)]
    alone = [TextFile(f"b{n}", {"b": noise(2000 + n, 800)}) for n in range(60)]
    parts = split_files([*both, *alone], (40_000, 6000, 6000))
    where = [(places([file.texts["a"]], parts["a"])[0], places([file.texts["b"]], parts["b"])[0]) for file in both]
    assert all(a == b or not a or not b for a, b in where)
    assert {split for a, b in where for split in a if a == b} == {TRAIN, VAL, TEST}


def test_a_domain_gets_its_share_where_another_of_the_same_files_has_enough():
    both = [TextFile(str(n), {"a": noise(n, 2000), "b": noise(1000 + n, 300)}) for n in range(100)]
    parts = split_files(both, (20_000, 3000, 3000))
    assert [[len(part) for part in parts[domain]] for domain in "ab"] == [[20_000, 3000, 3000]] * 2


def test_what_resembles_other_files_is_trained_on():
    texts = [noise(seed, 1000) for seed in range(40)]
    copies = [texts[place][:600] + noise(100 + place, 400) for place in range(0, 40, 2)]
    parts = split_files(files(*itertools.chain(*itertools.zip_longest(texts, copies, fillvalue=b"z"))), (60_000,) * 3)[
        "d"
    ]
    assert all(set(splits) <= {TRAIN} for splits in places([*texts[::2], *copies], parts))
    assert shared_share(parts[TEST], parts[TRAIN]) == 0.0 and len(parts[TEST]) > 5000


def test_where_all_resemble_each_other_nothing_is_left_to_test_on():
    texts = [noise(0, 1000) + noise(seed, 100) for seed in range(1, 10)]
    with pytest.raises(TaskError, match=r"d: of its 9 files, 9 resemble others, and are for training alone\n"):
        split_files(files(*texts), (8000, 1000, 1000))


def test_of_a_file_alone_spans_are_taken():
    text = noise(11, 1000)
    assert spans_of(text, (500, 200, 100)) == (text[:500], text[500:700], text[700:800])
    assert split_files(files(text), (8000, 1000, 1000))["d"] == (text[:800], text[800:900], text[900:])
    assert split_files(files(b""), (800, 100, 100))["d"] == (b"", b"", b"")


def test_two_files_do_not_make_three_splits():
    with pytest.raises(TaskError, match=r"d: two files cannot be divided.*\n.*add a third"):
        split_files(files(b"one", b"two"), (800, 100, 100))
    assert [len(part) for part in split_files(files(*[noise(n, 900) for n in range(3)]), (800, 100, 100))["d"]] == [
        800,
        100,
        100,
    ]
