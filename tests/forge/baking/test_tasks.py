"""Tasks that their prefixes alone tell apart, and configurations of the phase."""

import pytest
import torch

from esper.errors import ConfigError, ForgeError, TaskError
from esper.forge.baking.tasks import PrefixedTasks
from esper.forge.composing import compose
from esper.tasks.procedural import FAMILIES, Family, Problem
from esper.tasks.procedural.problem import is_exact
from esper.tasks.task import named_generator
from tests.forge.baking.parts import FAMILIES as NAMES
from tests.forge.baking.parts import config, tasks
from tests.forge.models import network, tokenizer


def test_a_prompt_is_the_familys_prefix_and_a_worked_one_shows_a_solved_problem():
    made = tasks()
    assert tokenizer().decode(made.prompt("copy").tokens) == "copy "
    worked = made.worked_prompt("reverse", named_generator(0, "worked"))
    solved, _, prefix = tokenizer().decode(worked.tokens).partition("=")
    assert solved.startswith("back ") and prefix == f"{solved.removeprefix('back ')[::-1]}back "
    assert tokenizer().eos_token_id in worked.tokens and worked.family == "reverse"


class Copies(torch.nn.Module):
    """Writes the three digits before "=" again, then ends; behind a prompt that it does not know, nothing."""

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self.wanted = torch.tensor(tokenizer().encode(wanted), dtype=torch.int64)

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, tokenizer().vocab_size)
        known = len(self.wanted)
        answered = tokens.shape[1] - known - 4
        if answered < 0:
            return logits
        is_asked = (tokens[:, :known] == self.wanted).all(1)
        following = tokens[:, known + answered] if answered < 3 else torch.tensor(tokenizer().eos_token_id)
        logits[:, -1].scatter_(1, (following * is_asked).view(-1, 1).expand(len(tokens), 1), 1.0)
        return logits


@pytest.mark.parametrize("wanted", ["", "copy "])
def test_accuracy_is_the_verifiers_behind_the_prompt_that_is_given(wanted):
    made = tasks()
    problems = made.problems("copy", 20, named_generator(0, "accuracy"))
    model = Copies(wanted)
    assert made.accuracy(model, tokenizer().encode(wanted), problems) == 1.0
    assert made.accuracy(model, tokenizer().encode("sort "), problems) == 0.0
    assert made.accuracy(network(), (), problems) == 0.0


def test_what_is_not_there_is_refused():
    with pytest.raises(TaskError, match="reverse"):
        tasks(["revers", *NAMES])
    with pytest.raises(ConfigError, match="level of copy"):
        tasks(levels=[99])


def test_two_families_of_one_prefix_are_refused():
    problem = Problem("test_copy", 1, "copy ", "1=", "1")
    FAMILIES.add(Family(name="test_copy", levels=1, draw=lambda level, generator: problem, is_right=is_exact))
    try:
        with pytest.raises(ForgeError, match="prefixes differ"):
            PrefixedTasks(["copy", "test_copy"], [1], tokenizer())
    finally:
        del FAMILIES._known["test_copy"]


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"families": ["copy", "reverse", "sort"]}, "at least 4 families"),
        ({"families": ["copy", "copy", "sort", "reverse"]}, "each name once"),
        ({"levels": []}, "at least one level"),
        ({"levels": [0]}, r"baking\.levels=0"),
        ({"rank": 0}, r"baking\.rank=0"),
        ({"alpha": 0.0}, r"baking\.alpha=0"),
        ({"min_baked": 1.5}, r"baking\.min_baked=1\.5"),
        ({"prefix_tokens": 0}, r"baking\.prefix_tokens=0"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_is_named(changed, wanted):
    with pytest.raises(ConfigError, match=wanted):
        config(**changed)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("size", ["nano", "small", "base"])
def test_every_size_has_a_configuration_and_names_the_key_of_a_budget(size):
    assert compose([f"size={size}"]).baking.rank == 8
    with pytest.raises(ConfigError, match=r"baking\.half_baking\.steps=0"):
        compose([f"size={size}", "baking.half_baking.steps=0"])
