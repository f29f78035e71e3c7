"""Lessons: what is asked, what counts as an answer, what a card keeps of them."""

import pytest
import torch

from esper.errors import CheckpointError, EsperError, ForgeError
from esper.forge.examples import IGNORED, Example, pad_examples
from esper.forge.lessons import Lesson, answer_of
from esper.forge.sampling import sample
from esper.kasmina.decoder import Decoder
from esper.tasks.procedural import Problem
from esper.tasks.task import named_generator
from esper.tasks.text.tokenizer import get_tokenizer

BYTES = get_tokenizer("bytes")
THINK, END, EOS = BYTES.think_token_id, BYTES.end_think_token_id, BYTES.eos_token_id
SUMS = {"running_sum": [1, 2]}


class Oracle(torch.nn.Module):
    """Writes after each prompt what it was told; it has no cache."""

    block_size = 64

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, BYTES.vocab_size)
        for row, given in enumerate(tokens.tolist()):
            for prompt, target in self.answers.items():
                if tuple(given[: len(prompt)]) == prompt:
                    place = min(len(given) - len(prompt), len(target) - 1)
                    logits[row, -1, target[place]] = 1.0
        return logits


def test_only_what_should_follow_is_learned():
    x, y = pad_examples([Example((1, 2, 3), (4, 5)), Example((7,), (8,))], pad=0)
    assert x.tolist() == [[1, 2, 3, 4], [7, 0, 0, 0]]
    assert y.tolist() == [[IGNORED, IGNORED, 4, 5], [8, IGNORED, IGNORED, IGNORED]]


def test_an_example_that_is_too_long_is_refused():
    with pytest.raises(ForgeError, match="take 5 tokens, and the model reads 3"):
        pad_examples([Example((1, 2, 3), (4, 5))], pad=0, length=3)


@pytest.mark.parametrize(
    ("tokens", "end_think", "answer"),
    [
        ([52, EOS], None, "4"),
        ([52], None, ""),  # not ended
        ([52, END, 53, EOS], END, "5"),
        ([52, 53, EOS], END, ""),  # a thought that does not end
        ([END, EOS], END, ""),
        ([], None, ""),
    ],
)
def test_an_answer_is_what_stands_between_the_thought_and_the_end(tokens, end_think, answer):
    assert answer_of(tokens, BYTES, end_think) == answer


@pytest.mark.parametrize("style", ["answer", "thought", "unprompted"])
def test_a_model_that_writes_what_is_taught_is_right_and_one_that_does_not_is_wrong(style):
    lesson = Lesson(phase="x", families=SUMS, style=style)
    problems = lesson.problems(6, named_generator(0, "x"))
    prompts = [tuple(BYTES.encode(lesson.prompt(problem))) for problem in problems]

    def target(problem, answer):
        thought = [*BYTES.encode(problem.thought), END] if style == "thought" else []
        return [*thought, *BYTES.encode(answer), EOS]

    given = [(*prompt, THINK) if style == "thought" else prompt for prompt in prompts]
    right = Oracle({p: target(q, q.answer) for p, q in zip(given, problems, strict=True)})
    wrong = Oracle({p: target(q, str((int(q.answer) + 1) % 10)) for p, q in zip(given, problems, strict=True)})
    assert all(lesson.is_right(right, problems, BYTES))
    assert not any(lesson.is_right(wrong, problems, BYTES))


def test_the_prefix_is_left_out_where_the_model_is_to_do_it_unasked():
    problem = Problem("running_sum", 1, "sum ", "123=", "6", "136")
    assert Lesson(phase="x", families=SUMS, style="unprompted").prompt(problem) == "123="
    assert Lesson(phase="x", families=SUMS).prompt(problem) == "sum 123="


def test_no_thought_is_empty_so_that_whoever_learned_to_think_keeps_thinking():
    examples = Lesson(phase="x", families=SUMS, style="thought").examples(200, named_generator(0, "x"), BYTES)
    assert all(example.target[0] == THINK and example.target[1] != END for example in examples)


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"phase": "x", "families": {"sums": [1]}, "style": "answer"},
        {"phase": "x", "families": {"parity": [99]}, "style": "answer"},
        {"phase": "x", "families": {"parity": [1]}, "style": "shout"},
        {"phase": "x", "families": [1], "style": "answer"},
        {"phase": "x", "families": {"parity": 1}, "style": "answer"},
        {"phase": "x", "families": {"parity": [1.5]}, "style": "answer"},
        {"phase": "x", "families": {"parity": [1]}, "style": "answer", "more": 1},
        {"phase": "x", "families": {}, "style": "answer"},
        {"phase": "x", "families": {"parity": []}, "style": "answer"},
        {"phase": "x", "families": {"sums": []}, "style": "answer"},
        {"phase": "x", "families": {"parity": [1, 1]}, "style": "answer"},
        {"phase": 5, "families": {"parity": [1]}, "style": "answer"},
        {"phase": "<b>\x1b", "families": {"parity": [1]}, "style": "answer"},
        "x",
    ],
)
def test_a_malformed_lesson_in_a_card_is_refused(plain):
    with pytest.raises(CheckpointError):
        Lesson.of(plain)


def test_a_card_gives_back_what_it_was_given():
    lesson = Lesson(phase="x", families=SUMS, style="thought")
    assert Lesson.of(lesson.plain()) == lesson


@pytest.fixture(scope="module")
def decoder():
    return Decoder(BYTES.vocab_size, 32, 2, 2, 32, generator=named_generator(0, "decoder")).eval()


def test_prompts_of_all_lengths_are_gone_on_with_as_if_each_were_alone(decoder):
    prompts = [[1, 2, 3], [4], [5, 6, 7], list(range(20))]
    together = sample(decoder, prompts, 8, stop=EOS)
    assert together == [sample(decoder, [prompt], 8, stop=EOS)[0] for prompt in prompts]
    assert all(len(written) <= 8 for written in together)


def test_what_is_sampled_follows_from_the_generator(decoder):
    drawn = [sample(decoder, [[1, 2]] * 3, 6, EOS, 1.0, named_generator(seed, "x")) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_prompt_that_fills_the_context_is_refused(decoder):
    with pytest.raises(EsperError, match="no room for an answer"):
        sample(decoder, [list(range(32))], 4, EOS)
