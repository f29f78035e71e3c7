import pytest
import torch

from esper.simic.on_policy.advantages import discounted_returns, gae

STEPS, MEMBERS = 12, 6


def case(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn(STEPS, MEMBERS, generator=generator, dtype=torch.float64)

    ends = torch.rand(STEPS, MEMBERS, generator=generator)
    return {
        "rewards": normal(),
        "values": normal(),
        "next_values": normal(),
        "terminated": ends < 0.15,
        "truncated": (ends > 0.1) & (ends < 0.3),  # some are both: over is over
    }


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.9, 0.95), (1.0, 0.5), (0.99, 1.0), (0.9, 0.0)])
def test_gae_by_brute_force(gamma: float, gae_lambda: float) -> None:
    given = case(0)
    found = gae(**given, gamma=gamma, gae_lambda=gae_lambda)
    for member in range(MEMBERS):
        for step in range(STEPS):
            expected, weight = 0.0, 1.0
            for later in range(step, STEPS):
                at = (later, member)
                goal = given["rewards"][at] + (0 if given["terminated"][at] else gamma * given["next_values"][at])
                expected += weight * (goal - given["values"][at])
                if given["terminated"][at] or given["truncated"][at]:
                    break
                weight *= gamma * gae_lambda
            assert found[step, member].item() == pytest.approx(float(expected))


def test_returns_by_brute_force() -> None:
    given, gamma = case(1), 0.9
    del given["values"]
    found = discounted_returns(**given, gamma=gamma)
    for member in range(MEMBERS):
        for step in range(STEPS):
            expected, weight = 0.0, 1.0
            for later in range(step, STEPS):
                at = (later, member)
                expected += weight * given["rewards"][at]
                weight *= gamma
                if given["terminated"][at]:
                    weight = 0.0
                if given["terminated"][at] or given["truncated"][at] or later == STEPS - 1:
                    expected += weight * given["next_values"][at]
                    break
            assert found[step, member].item() == pytest.approx(float(expected))


def test_a_truncated_episode_goes_on_and_a_terminated_one_does_not() -> None:
    both = torch.tensor([[True, False]]), torch.tensor([[False, True]])
    rewards, values, next_values = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[8.0, 8.0]])
    assert gae(rewards, values, next_values, *both, 0.5, 0.9).tolist() == [[0.5, 4.5]]
    assert discounted_returns(rewards, next_values, *both, 0.5).tolist() == [[1.0, 5.0]]


def test_with_lambda_one_advantages_are_returns_less_values_where_values_follow_on() -> None:
    given = case(2)
    ended = given["terminated"] | given["truncated"]
    follows = torch.cat([given["values"][1:], given["next_values"][-1:]])
    given["next_values"] = torch.where(ended, given["next_values"], follows)
    advantages = gae(**given, gamma=0.9, gae_lambda=1.0)
    values = given.pop("values")
    torch.testing.assert_close(advantages + values, discounted_returns(**given, gamma=0.9))
