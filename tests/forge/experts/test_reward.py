"""Experts by verified reward: the estimator's direction, and more right answers than before."""

import pytest
import torch

from esper.errors import ConfigError
from esper.forge.experts.config import RewardBudget
from esper.forge.experts.reward import RewardTraining, against_siblings, reward_loss
from esper.forge.experts.singular_values import SingularValues
from esper.forge.lessons import Lesson
from esper.forge.phase import Interrupted, PhaseContext
from esper.kasmina.decoder import Decoder
from esper.tasks.task import named_generator
from esper.tasks.text.tokenizer import get_tokenizer

CONFIG = RewardBudget(steps=12, problems=8, answers=4, learning_rate=0.05, max_grad_norm=1.0)
LESSON = Lesson(phase="curriculum", families={"parity": [1]})


def test_answers_are_judged_against_their_siblings():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    expected = torch.tensor([[1.0, -1 / 3, -1 / 3, -1 / 3], [0.0] * 4])
    assert torch.allclose(against_siblings(rewards), expected)


def test_the_gradient_is_that_of_the_expected_reward():
    """Over all answers, weighed by their chance, REINFORCE is the exact gradient."""
    logits = torch.randn(5, generator=named_generator(0, "logits")).requires_grad_()
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    chances = logits.softmax(0)
    (exact,) = torch.autograd.grad(chances @ rewards, logits)
    losses = torch.stack([reward_loss(logits[None, None], torch.tensor([[a]]), rewards[a : a + 1]) for a in range(5)])
    (estimate,) = torch.autograd.grad(chances.detach() @ losses, logits)
    assert torch.allclose(estimate, -exact, atol=1e-6)


@pytest.fixture(scope="module")
def network():
    """Of which every answer is a digit and the end, one digit as likely as the other."""
    tokenizer = get_tokenizer("bytes")
    decoder = Decoder(tokenizer.vocab_size, 32, 2, 1, 32, generator=named_generator(0, "answers"))
    optimizer = torch.optim.AdamW(decoder.parameters(), 0.01)
    generator = named_generator(0, "examples")
    from esper.forge.examples import pad_examples

    for _ in range(30):
        x, y = pad_examples(LESSON.examples(32, generator, tokenizer), tokenizer.pad_token_id)
        y[y == ord("1")] = ord("0")  # it is taught to say that all are even, mostly
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(decoder(x).flatten(0, 1), y.flatten(), label_smoothing=0.2).backward()
        optimizer.step()
    return decoder.eval().requires_grad_(False)


def training(network, folder):
    return RewardTraining(
        SingularValues(network),
        [LESSON],
        lambda lesson, count, generator: lesson.problems(count, generator),
        CONFIG,
        get_tokenizer("bytes"),
        "expert_0",
        folder,
        seed=0,
    )


def context(**given):
    return PhaseContext(seed=0, model=None, tokenizer_name="bytes", corpus_config=None, **given)


def test_right_answers_become_likelier(network, tmp_path):
    rewards = []
    training(network, tmp_path).run(context(log=lambda step, **metrics: rewards.append(metrics["expert_0_reward"])))
    assert len(rewards) == CONFIG.steps and sum(rewards[-4:]) > sum(rewards[:4])


def test_stopped_and_gone_on_with_it_ends_bit_for_bit_the_same(network, tmp_path):
    whole = training(network, tmp_path / "whole")
    whole.run(context())
    asked = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        training(network, tmp_path / "stopped").run(context(should_stop=lambda: next(asked)))
    again = training(network, tmp_path / "stopped")
    assert again.step == 5
    again.run(context())
    assert torch.equal(again.scaled.values, whole.scaled.values) and bool(whole.scaled.values.any())


def test_one_answer_has_no_siblings():
    with pytest.raises(ConfigError, match=r"experts\.reward\.answers=1"):
        RewardBudget(steps=1, problems=1, answers=1, learning_rate=0.1, max_grad_norm=1.0)
