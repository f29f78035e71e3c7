import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from esper.errors import ConfigError, TaskError
from esper.tasks.settings import CorpusConfig
from esper.tasks.task import named_generator
from esper.tasks.text.corpus import build_corpus, draw_windows, every_window
from esper.tasks.text.splits import shared_share
from esper.tasks.text.tokenizer import get_tokenizer

ROOT = Path(__file__).resolve().parents[3]
SMALL = {"train_bytes": 60_000, "val_bytes": 8000, "test_bytes": 8000, "block_size": 64}


@pytest.fixture(scope="module")
def corpus():
    return build_corpus(CorpusConfig(**SMALL), get_tokenizer())


@pytest.fixture
def texts(tmp_path):
    """A folder of thirty files, and a file; no text is in two places."""
    (tmp_path / "notes").mkdir()
    for number in range(30):
        lines = "".join(f"note {number} line {line}: {hash_of(number, line)}\n" for line in range(20))
        (tmp_path / f"notes/{number}.txt").write_text(lines)
    (tmp_path / "book.txt").write_text("".join(f"page {page}, {hash_of(-1, page)}\n" for page in range(900)))
    return tmp_path


def hash_of(*values):
    return torch.randint(1 << 60, (3,), generator=named_generator(0, str(values))).tolist()


def own(*paths, **values):
    return build_corpus(
        CorpusConfig(name="text", paths=[str(path) for path in paths], **(SMALL | values)), get_tokenizer()
    )


def text_of(stream):
    return bytes(stream.tolist())


def test_the_installed_corpus_has_three_domains_split_three_ways(corpus):
    assert list(corpus.domains) == ["cpp", "prose", "python"]
    for name, domain in corpus.domains.items():
        assert domain.name == name
        assert [len(domain.train), len(domain.val), len(domain.test)] == [60_000, 8000, 8000]
        assert domain.test.dtype == torch.int32 and int(domain.test.max()) < 256
    assert b"#include" in text_of(corpus.domains["cpp"].train)
    assert b"def " in text_of(corpus.domains["python"].train)
    assert text_of(corpus.domains["python"].train).count(b'"""') < 40  # no docstrings
    assert text_of(corpus.domains["prose"].train).count(b"def ") < 60


def test_overlap_is_measured_over_all_domains(corpus):
    splits = {
        split: b"".join(text_of(getattr(domain, split)) for domain in corpus.domains.values())
        for split in ("train", "test")
    }
    assert corpus.overlap == shared_share(splits["test"], splits["train"])
    assert 0.0 <= corpus.overlap < 0.1


@pytest.mark.slow
def test_another_process_builds_the_same_corpus_and_another_seed_another(corpus):
    program = (
        "from esper.tasks.settings import CorpusConfig\n"
        "from esper.tasks.text.corpus import build_corpus\n"
        "from esper.tasks.text.tokenizer import get_tokenizer\n"
        f"print(build_corpus(CorpusConfig(**{SMALL}), get_tokenizer()).fingerprint)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "5", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == corpus.fingerprint, done.stderr
    other = build_corpus(CorpusConfig(**SMALL), get_tokenizer(), seed=1)
    assert other.fingerprint != corpus.fingerprint
    assert not torch.equal(other.domains["python"].test, corpus.domains["python"].test)


def test_the_fingerprint_is_of_all_the_text(texts):
    before = own(texts / "notes", texts / "book.txt").fingerprint
    assert own(texts / "notes", texts / "book.txt").fingerprint == before
    (texts / "notes/7.txt").write_text((texts / "notes/7.txt").read_text().replace("note 7", "note 8", 1))
    assert own(texts / "notes", texts / "book.txt").fingerprint != before


def test_folders_are_split_by_files_and_files_by_spans(texts):
    corpus = own(texts / "notes", texts / "book.txt")
    assert list(corpus.domains) == ["book", "notes"]
    book, notes = corpus.domains["book"], corpus.domains["notes"]
    parts = [text_of(part) for part in (book.train, book.val, book.test)]
    assert b"".join(parts) == (texts / "book.txt").read_bytes()[: sum(map(len, parts))]
    heads = [
        {line.split()[1] for line in text_of(part).splitlines() if line.startswith(b"note ") and b" line " in line}
        for part in (notes.train, notes.val, notes.test)
    ]
    assert all(heads) and sum(map(len, heads)) == len(set.union(*heads))
    assert corpus.overlap == 0.0


def test_another_tokenizer_is_another_corpus(texts, tmp_path):
    from esper.tasks.text.training import train_tokenizer

    path = tmp_path / "tokenizer.json"
    path.write_bytes(train_tokenizer([str(texts / "book.txt")], 400)[0])
    tokenizer = get_tokenizer(str(path))
    config = CorpusConfig(name="text", paths=[str(texts / "book.txt")], **SMALL)
    corpus, of_bytes = build_corpus(config, tokenizer), build_corpus(config, get_tokenizer())
    test = corpus.domains["book"].test
    assert len(test) < len(of_bytes.domains["book"].test)
    assert int(tokenizer.token_bytes[test].sum()) == len(of_bytes.domains["book"].test)
    assert corpus.fingerprint != of_bytes.fingerprint and corpus.tokenizer is tokenizer


def test_windows_are_tokens_and_the_one_after_each():
    stream = torch.arange(1000, 1100, dtype=torch.int32)
    x, y = every_window(stream, 10)
    assert x.shape == y.shape == (9, 10) and x.dtype == y.dtype == torch.int64
    assert torch.equal(x.flatten(), stream[:90].long()) and torch.equal(y, x + 1)
    x, y = draw_windows(stream, 500, 10, named_generator(0, "windows"))
    assert x.shape == (500, 10) and torch.equal(y, x + 1)
    assert {int(x.min()), int(y.max())} == {1000, 1099}  # anywhere, both ends included
    assert torch.equal(draw_windows(stream, 500, 10, named_generator(0, "windows"))[0], x)
    assert every_window(stream[:11], 10)[0].shape == (1, 10)


def test_text_shorter_than_a_window_is_refused(texts):
    (texts / "tiny.txt").write_text("x" * 600)
    with pytest.raises(TaskError, match=r"domain tiny: 63 tokens to make a validation split.*block_size \+ 1 = 65\n"):
        own(texts / "notes", texts / "tiny.txt")


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["notes", "notes"], "is given twice"),
        (["notes", "./notes/../notes"], "is given twice"),
        (["notes", "link"], "is given twice"),
        (["notes/3.txt", "notes"], "lies inside"),
        (["notes", "other/notes.txt"], "are both called notes\n"),
        (["empty"], "there is no text in it"),
        (["notes", "nowhere"], "cannot be read"),
        ([""], "no empty name"),
        ([], "files or folders"),
    ],
)
def test_paths_that_will_not_do_say_why(texts, monkeypatch, paths, said):
    monkeypatch.chdir(texts)
    (texts / "empty").mkdir()
    (texts / "other").mkdir()
    (texts / "other/notes.txt").write_text("text\n" * 900)
    (texts / "link").symlink_to("notes")
    with pytest.raises(ConfigError, match=said) as caught:
        own(*paths) if paths != [""] else CorpusConfig(name="text", paths=paths)
    assert str(caught.value).startswith("corpus.paths=") and len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "instaled"}, "corpus.name=instaled.*did you mean installed"),
        ({"paths": ["a"]}, r"corpus.paths=\[a\]: has no effect with corpus.name=installed"),
        ({"block_size": 1}, "corpus.block_size=1"),
        ({"test_bytes": 128}, "corpus.test_bytes=128: expected 129"),
        ({"train_bytes": float("nan")}, "corpus.train_bytes"),
    ],
)
def test_a_wrong_value_is_named(values, said):
    with pytest.raises(ConfigError, match=said):
        CorpusConfig(**values)
