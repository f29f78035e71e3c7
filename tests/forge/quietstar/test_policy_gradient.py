"""The estimator: against exact enumeration, against sums by hand, and a baseline that really trains."""

import itertools

import pytest
import torch

from esper.forge.quietstar.config import RLConfig
from esper.forge.quietstar.episodes import Episodes
from esper.forge.quietstar.policy_gradient import Baseline, advantages_and_returns, episode_losses
from esper.forge.sampling import sample
from esper.kasmina import Decoder
from esper.tasks.task import named_generator

VOCAB, STOP, MOST = 4, 0, 3
PROMPT = [1, 2]


def policy() -> Decoder:
    made = Decoder(VOCAB, 8, 1, 1, 8, generator=named_generator(0, "tiny"))
    with torch.no_grad():
        made.embedding.weight.mul_(6.0)
    return made


def reward(text) -> float:
    return {(3, 0): 1.0, (2, 3, 0): 0.5, (1, 1, 0): 2.0}.get(tuple(text), 0.1 * (text[0] == 3))


def every_text():
    for length in range(1, MOST + 1):
        for text in itertools.product(range(VOCAB), repeat=length):
            if STOP not in text[:-1] and (length == MOST or text[-1] == STOP):
                yield list(text)


def gradient(network, loss):
    network.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def exact_gradient(network):
    expected = 0.0
    total = 0.0
    for text in every_text():
        tokens = torch.tensor([[*PROMPT, *text[:-1]]])
        log_probs = network(tokens)[0, len(PROMPT) - 1 :].log_softmax(-1)
        probability = log_probs[torch.arange(len(text)), torch.tensor(text)].sum().exp()
        expected = expected + probability * reward(text)
        total += probability.item()
    assert total == pytest.approx(1.0, abs=1e-5)
    return gradient(network, -expected)


def episodes_of(network, count):
    prompts = [PROMPT] * count
    written = sample(network, prompts, MOST, STOP, 1.0, named_generator(0, "episodes"))
    return Episodes.of(prompts, written, [reward(text) for text in written])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("use_gae, is_fitted", [(True, True), (False, False)])
def test_the_estimate_points_where_the_exact_gradient_does(use_gae, is_fitted):
    network, config = policy(), RLConfig(gamma=1.0, gae_lambda=1.0, use_gae=use_gae)
    episodes = episodes_of(network, 10_000)
    baseline = Baseline(VOCAB, named_generator(0, "baseline"))
    logits = episodes.logits(network)
    if is_fitted:
        baseline.fit(episodes_of(network, 500), episodes_of(network, 500).logits(network).detach(), config, 50)
    losses = episode_losses(episodes, logits, logits.detach(), baseline(episodes, logits), config)
    estimated = gradient(network, losses.policy)
    assert float(torch.cosine_similarity(estimated, exact_gradient(network), dim=0)) > 0.99


def test_advantages_by_hand():
    episodes = Episodes.of([[1], [1, 1]], [[2, 3, 0], [3, 0]], [1.0, 0.5])
    values = torch.tensor([[0.2, 0.4, 0.6], [0.1, 0.3, 9.0]])  # the last one is of no action
    config = RLConfig(gamma=0.5, gae_lambda=0.5)
    advantages, returns = advantages_and_returns(episodes, values, config)
    errors = [0.5 * 0.4 - 0.2, 0.5 * 0.6 - 0.4, 1.0 - 0.6]
    first = [errors[0] + 0.25 * (errors[1] + 0.25 * errors[2]), errors[1] + 0.25 * errors[2], errors[2]]
    assert advantages[0].tolist() == pytest.approx(first)
    assert advantages[1].tolist() == pytest.approx([0.5 * 0.3 - 0.1 + 0.25 * 0.2, 0.2, 0.0])
    assert returns[0].tolist() == pytest.approx([a + v for a, v in zip(first, [0.2, 0.4, 0.6], strict=True)])
    plain, sums = advantages_and_returns(episodes, values, RLConfig(gamma=0.5, use_gae=False))
    assert sums[0].tolist() == pytest.approx([0.25, 0.5, 1.0])
    assert plain[1, :2].tolist() == pytest.approx([0.25 - 0.1, 0.5 - 0.3])


def test_logits_are_those_that_each_action_was_chosen_by():
    network = policy()
    episodes = Episodes.of([[1], [1, 2, 3]], [[2, 3, 0], [3]], [1.0, 0.0])
    logits = episodes.logits(network)
    torch.testing.assert_close(logits[0, 2], network(torch.tensor([[1, 2, 3]]))[0, -1])
    torch.testing.assert_close(logits[1, 0], network(torch.tensor([[1, 2, 3]]))[0, -1])
    assert episodes.taken.tolist() == [[True, True, True], [True, False, False]]


def test_the_divergence_is_from_the_reference_and_nothing_from_itself():
    network, other = policy(), policy()
    with torch.no_grad():
        other.embedding.weight[3] += 0.5
    episodes = episodes_of(network, 50)
    logits, elsewhere = episodes.logits(network), episodes.logits(other)
    values = torch.zeros(episodes.actions.shape)
    same = episode_losses(episodes, logits, logits.detach(), values, RLConfig())
    assert same.kl.item() == pytest.approx(0.0, abs=1e-6)
    found = episode_losses(episodes, logits, elsewhere, values, RLConfig())
    expected = (logits.softmax(-1) * (logits.log_softmax(-1) - elsewhere.log_softmax(-1))).sum(-1)
    assert found.kl.item() == pytest.approx(expected[episodes.taken].mean().item(), rel=1e-4) and found.kl.item() > 0


def test_the_baseline_learns_and_leaves_the_policy_be():
    network, config = policy(), RLConfig(gamma=1.0)
    episodes, others = episodes_of(network, 400), episodes_of(network, 2000)
    baseline = Baseline(VOCAB, named_generator(0, "baseline"))
    before = episode_losses(
        others, others.logits(network), others.logits(network), baseline(others, others.logits(network)), config
    )
    baseline.fit(episodes, episodes.logits(network), config, 200)
    logits = others.logits(network)
    after = episode_losses(others, logits, logits, baseline(others, logits), config)
    assert before.explained == pytest.approx(0.0, abs=1e-6) and after.explained > 0.05
    assert after.value.item() < 0.9 * before.value.item()
    network.zero_grad()
    after.value.backward()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_baseline_knows_a_slip_once_it_is_written_and_not_before():
    likely, unlikely = 2, 3
    texts = [[likely, STOP]] * 30 + [[unlikely, STOP]] * 30
    episodes = Episodes.of([PROMPT] * 60, texts, [1.0] * 30 + [0.0] * 30)
    logits = torch.zeros(60, 2, VOCAB)
    logits[..., likely] = 3.0
    baseline = Baseline(VOCAB, named_generator(0, "baseline"))
    baseline.fit(episodes, logits, RLConfig(), 300)
    values = baseline(episodes, logits)
    assert values[0, 0] == values[30, 0]
    assert values[0, 1] > 0.8 and values[30, 1] < 0.2
