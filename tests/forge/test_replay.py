"""Text in which lessons come back: of the length asked for, in the share asked for."""

import pytest
import torch

from esper.errors import ForgeError
from esper.forge.examples import IGNORED
from esper.forge.lessons import Lesson
from esper.forge.phase import PhaseContext
from esper.forge.replay import text_with_lessons
from esper.tasks.text.corpus import Corpus, Domain
from tests.forge.models import tokenizer

LESSONS = [Lesson(phase="x", families={"parity": [1]}), Lesson(phase="y", families={"running_sum": [2]})]


def batches(lessons, length: int = 32):
    context = PhaseContext(seed=0, model=None, tokenizer_name="bytes", corpus_config=None)
    text = torch.arange(800) % 200
    context.corpus = Corpus(
        domains={"numbers": Domain("numbers", text, text, text)},
        fingerprint="f" * 64,
        overlap=0.0,
        tokenizer=tokenizer(),
    )
    return text_with_lessons(context, 8, length, "test", lessons, 0.25)


def test_so_large_a_share_are_examples_and_the_rest_is_text():
    x, y = batches(LESSONS).draw()
    assert x.shape == y.shape == (8, 32)
    assert ((y == IGNORED).any(1)).tolist() == [False] * 6 + [True] * 2
    assert (x[:6, 1:] == y[:6, :-1]).all()


def test_without_lessons_all_is_text():
    _, y = batches([]).draw()
    assert len(y) == 8 and not (y == IGNORED).any()


def test_an_example_longer_than_the_rows_is_refused():
    with pytest.raises(ForgeError, match="the model reads 4"):
        batches(LESSONS, 4).draw()
