import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.errors import TaskError
from esper.tasks.splits import stratified_splits
from esper.tasks.task import named_generator


def split(labels, val=0.2, test=0.2, seed=0):
    return stratified_splits(labels, val, test, named_generator(seed, "test"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=20, max_size=200), st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_splits_are_disjoint_cover_everything_and_keep_class_shares(labels, val, test):
    labels = torch.tensor(labels)
    splits = split(labels, val, test)
    everything = torch.cat([splits.train, splits.val, splits.test])
    assert torch.equal(everything.sort().values, torch.arange(len(labels)))
    assert len(splits.val) == round(len(labels) * val)
    assert len(splits.test) == round(len(labels) * test)
    for index, share in ((splits.val, val), (splits.test, test), (splits.train, 1 - val - test)):
        counts = torch.bincount(labels[index], minlength=5)
        expected = torch.bincount(labels, minlength=5) * share
        assert (counts - expected).abs().max() <= 2.0


def test_generator_decides_the_splits():
    labels = torch.arange(100) % 10
    assert torch.equal(split(labels, seed=1).val, split(labels, seed=1).val)
    assert not torch.equal(split(labels, seed=1).val, split(labels, seed=2).val)


def test_membership_is_random_within_a_class_not_first_come():
    labels = torch.zeros(400, dtype=torch.int64)
    val = split(labels).val
    assert 150 < val.double().mean() < 250


def test_empty_split_is_an_error_that_names_the_keys():
    with pytest.raises(TaskError, match=r"task\.val_fraction"):
        split(torch.tensor([0, 1, 2]), val=0.01, test=0.01)


def test_no_test_split_when_none_is_asked_for():
    splits = split(torch.arange(50) % 5, test=0.0)
    assert len(splits.test) == 0 and len(splits.val) == 10 and len(splits.train) == 40
