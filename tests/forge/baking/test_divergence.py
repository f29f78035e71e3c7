"""What a prompt does to a model, and batches in which that stands beside what must be kept."""

import copy

import pytest
import torch

from esper.forge.baking.divergence import TEXT_WEIGHT, baking_loss, pool_divergence, prompted_divergence, trajectories
from esper.forge.bitnet.quantizer import quantize_layers
from esper.forge.examples import IGNORED, Example, GroupedBatches, grouped_loss, pad_examples, pool_batches
from esper.forge.replay import lesson_batches
from esper.forge.training import next_token_loss
from esper.tasks.task import named_generator
from tests.forge.baking.parts import tasks
from tests.forge.models import network, tokenizer

PAD = tokenizer().pad_token_id


def pool(prefix: str, bodies=("12=", "4567=")) -> list[Example]:
    encode = tokenizer().encode
    return [Example((*encode(prefix), *encode(body)), tuple(encode("89"))) for body in bodies]


@pytest.mark.parametrize("make", [network, lambda: quantize_layers(network())], ids=["plain", "ternary"])
def test_an_empty_prefix_does_nothing(make):
    model = make()
    assert pool_divergence(copy.deepcopy(model), model, pool(""), 0, PAD) == 0.0
    assert pool_divergence(copy.deepcopy(model), model, pool("do "), 3, PAD) > 0.0


def test_it_is_the_mean_of_each_positions_divergence():
    teacher, student = network(0), network(1)
    total, count = 0.0, 0
    for example in pool("do "):
        tokens = torch.tensor([*example.prompt, *example.target])
        for place in range(len(example.prompt), len(example)):
            with torch.no_grad():
                wanted = teacher(tokens[None, :place])[0, -1].log_softmax(-1)
                given = student(tokens[None, 3:place])[0, -1].log_softmax(-1)
            total += float((wanted.exp() * (wanted - given)).sum())
            count += 1
    assert pool_divergence(student, teacher, pool("do "), 3, PAD) == pytest.approx(total / count, rel=1e-4)


def test_the_teacher_gets_no_gradient():
    teacher, student = network(0), network(1)
    x, y = pad_examples(pool("do "), PAD)
    prompted_divergence(student, teacher, x, y, 3).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.embedding.weight.grad is not None


def test_trajectories_are_drawn_from_the_teacher_behind_the_prompt():
    model, encode = network(), tokenizer().encode
    bodies = [encode("12="), encode("4567=")]
    drawn = [
        trajectories(model, encode("do "), bodies, 5, -1, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [list(example.prompt) for example in drawn[0]] == [encode("do 12="), encode("do 4567=")]
    assert [len(example.target) for example in drawn[0]] == [5, 5]


def grouped(generator):
    taught = [tasks().lesson("answer", ["copy"]), tasks().lesson("answer", ["reverse"])]
    return GroupedBatches(
        [
            (pool_batches(pool("do "), 3, PAD, generator), 3),
            (lesson_batches(taught, 4, tokenizer(), generator), 4),
            (pool_batches([Example((1,), (2,) * 20)], 2, PAD, generator), 2),
        ]
    )


def test_groups_are_taken_apart_as_they_were_drawn():
    batches = grouped(named_generator(0, "groups"))
    x, y = batches.draw()
    assert x.shape == y.shape == (9, 20)
    parts = list(batches.split(x, y))
    assert [len(part) for part, _ in parts] == [3, 4, 2]
    assert parts[2][0].shape == (2, 20) and parts[1][0].shape == (4, 12)
    assert sum(int((part != IGNORED).sum()) for _, part in parts) == int((y != IGNORED).sum())


def test_sources_with_futures_of_their_own_are_refused():
    parts = [(pool_batches(pool(""), 1, PAD, named_generator(0, name)), 1) for name in ("one", "other")]
    with pytest.raises(ValueError, match="one generator"):
        GroupedBatches(parts)


def test_the_loss_bakes_the_prompt_keeps_the_tasks_and_learns_the_text():
    teacher, student = network(0), network(1)
    batches = grouped(named_generator(0, "groups"))
    x, y = batches.draw()
    baked, lessons, text = batches.split(x, y)
    wanted = prompted_divergence(student, teacher, *baked, 3) + prompted_divergence(student, teacher, *lessons, 0)
    wanted = (wanted + TEXT_WEIGHT * next_token_loss(student, *text)) / (2 + TEXT_WEIGHT)
    assert baking_loss(batches, teacher, 3)(student, x, y).item() == pytest.approx(wanted.item(), rel=1e-6)
    means = [next_token_loss(student, *part).item() for part in (baked, lessons, text)]
    assert grouped_loss(batches)(student, x, y).item() == pytest.approx(sum(means) / 3)
