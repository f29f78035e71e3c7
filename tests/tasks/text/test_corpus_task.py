"""The forge's corpus as a task of a run."""

import itertools

import pytest
import torch

from esper.errors import ConfigError, TaskError
from esper.tasks import build_task
from esper.tasks.settings import CorpusConfig, CorpusTaskConfig
from esper.tasks.task import named_generator
from esper.tasks.text.corpus import build_corpus, every_window
from esper.tasks.text.tokenizer import get_tokenizer

SMALL = {"train_bytes": 3000, "val_bytes": 600, "test_bytes": 500, "block_size": 16}


@pytest.fixture
def paths(tmp_path):
    """Two domains, one much longer than the other; no span of four bytes occurs twice."""
    found = []
    for name, first, count in (("long", 0, 2000), ("short", 5000, 400)):
        path = tmp_path / f"{name}.txt"
        path.write_bytes(b"".join(number.to_bytes(4, "big") for number in range(first, first + count)))
        found.append(str(path))
    return found


@pytest.fixture
def task(paths):
    return build_task(CorpusTaskConfig(corpus="text", paths=paths, epoch_windows=41, **SMALL))


@pytest.fixture
def corpus(paths):
    return build_corpus(CorpusConfig(name="text", paths=paths, **SMALL), get_tokenizer())


def test_its_splits_are_those_of_the_forge(task, corpus):
    for split in ("train", "val", "test"):
        windows = [every_window(getattr(domain, split), 16) for domain in corpus.domains.values()]
        for name, own in zip("xy", zip(*windows, strict=True), strict=True):
            assert torch.equal(getattr(task, f"{split}_{name}"), torch.cat(own))
    assert (task.num_outputs, task.tokenizer_sha256) == (264, get_tokenizer().sha256)


def test_installed_text_is_split_as_the_forge_splits_it():
    sizes = {"train_bytes": 20_000, "val_bytes": 3000, "test_bytes": 3000, "block_size": 64}
    task = build_task(CorpusTaskConfig(**sizes))
    corpus = build_corpus(CorpusConfig(**sizes), get_tokenizer())
    assert list(corpus.domains) == ["cpp", "prose", "python"]
    test = [every_window(domain.test, 64)[0] for domain in corpus.domains.values()]
    assert torch.equal(task.test_x, torch.cat(test))


def test_an_epoch_draws_as_much_from_each_domain_and_nothing_but_training_text(task, corpus):
    x, y = task.epoch_data(1, named_generator(0, "epochs"))
    assert x.shape == y.shape == (41, 16) and torch.equal(x[:, 1:], y[:, :-1])
    texts = [bytes(domain.train.tolist()) for domain in corpus.domains.values()]
    others = b"|".join(bytes(s.tolist()) for domain in corpus.domains.values() for s in (domain.val, domain.test))
    windows = [bytes(window) for window in x.tolist()]
    counts = [sum(window in text for window in windows) for text in texts]
    assert sorted(counts) == [20, 21] and not any(window in others for window in windows)
    assert torch.equal(task.epoch_data(2, named_generator(0, "epochs"))[0], x)


def test_decisions_are_made_by_evenly_spaced_windows(paths, task):
    few = build_task(CorpusTaskConfig(corpus="text", paths=paths, val_windows=7, **SMALL))
    assert len(few.val_x) == 7 and torch.equal(few.test_x, task.test_x)
    places = [task.val_x.tolist().index(window) for window in few.val_x.tolist()]
    steps = [after - before for before, after in itertools.pairwise(places)]
    assert places[0] == 0 and places[-1] == len(task.val_x) - 1 and max(steps) - min(steps) <= 1
    assert torch.equal(few.val_y, task.val_y[places])
    many = build_task(CorpusTaskConfig(corpus="text", paths=paths, val_windows=10_000, **SMALL))
    assert torch.equal(many.val_x, task.val_x)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"corpus": "instaled"}, r"task\.corpus=instaled.*did you mean installed"),
        ({"corpus": "text"}, r"task\.paths=.*as in task\.paths=\[FILE,FOLDER\]"),
        ({"paths": ["a"]}, r"task\.paths=\[a\]: has no effect with task\.corpus=installed"),
        ({"corpus": "text", "paths": ["a", "a"]}, r"task\.paths=\[a,a\]: a is given twice"),
        ({"tokenizer": ""}, r"task\.tokenizer="),
        ({"val_windows": 0}, r"task\.val_windows=0"),
        ({"block_size": 1}, r"task\.block_size=1"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named_as_it_is_set(values, said):
    with pytest.raises(ConfigError, match=said):
        CorpusTaskConfig(**values)


def test_text_that_is_missing_or_too_short_is_named_as_it_is_set(tmp_path):
    with pytest.raises(ConfigError, match=r"task\.paths=.*nowhere.*task=corpus task\.corpus=text task\.paths"):
        build_task(CorpusTaskConfig(corpus="text", paths=[str(tmp_path / "nowhere")]))
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(TaskError, match=r"domain short: .* task\.block_size \+ 1 = 17"):
        build_task(CorpusTaskConfig(corpus="text", paths=[str(tmp_path / "short.txt")], **SMALL))
