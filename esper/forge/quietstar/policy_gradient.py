"""What an episode teaches: the gradient of the policy, and the baseline that it is judged beside."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.forge.quietstar.config import RLConfig
from esper.forge.quietstar.episodes import Episodes
from esper.kasmina.seeding import weights_from
from esper.simic.on_policy.advantages import discounted_returns, explained_variance, gae, normalized

_HIDDEN = 64
_FIGURES = 4  # that the baseline reads beside the next token's probabilities
_LENGTH = 16  # tokens, that what is written is counted in, to be about as large as those


class Baseline(nn.Module):
    """What is still to be won, judged by the policy's own doubts: a head of its own, which leaves the policy be.

    It reads how likely each token is to come next, how likely the policy found the last one and all that it has written
    (a slip shows there, and after it the answer is seldom right), how undecided it is, and how much is written.

    Args: vocab_size: V. generator: draws its first weights; the last layer's are zero, and so are its first answers.
    """

    def __init__(self, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__()
        with weights_from(generator):
            self.hidden = nn.Linear(vocab_size + _FIGURES, _HIDDEN)
            self.out = nn.Linear(_HIDDEN, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, episodes: Episodes, logits: Tensor) -> Tensor:
        """Args: logits [B, N, V]: what the actions were chosen by. Returns: [B, N], of before each action."""
        return self._judge(self._read(episodes, logits))

    def fit(self, episodes: Episodes, logits: Tensor, config: RLConfig, steps: int) -> None:
        """Learn what these episodes won, alone. Args: logits [B, N, V]: what their actions were chosen by."""
        optimizer = torch.optim.AdamW(self.parameters(), config.value_learning_rate, weight_decay=0.0)
        read = self._read(episodes, logits)  # the same at every step
        for _ in range(steps):
            optimizer.zero_grad()
            values = self._judge(read)
            value_loss(episodes, values, advantages_and_returns(episodes, values, config)[1]).backward()
            optimizer.step()

    def _read(self, episodes: Episodes, logits: Tensor) -> Tensor:
        """What values are judged by [B, N, V + 4]; no gradient goes through it."""
        log_probs = logits.detach().log_softmax(-1)
        probs = log_probs.exp()
        chosen = log_probs.gather(-1, episodes.actions[..., None])[..., 0]
        before = F.pad(chosen, (1, 0))[:, :-1]
        entropy = -(probs * log_probs).sum(-1)
        written = (torch.arange(chosen.shape[1]) / _LENGTH).expand_as(chosen)
        figures = torch.stack((before.cumsum(1).exp(), before.exp(), entropy, written), -1)
        return torch.cat((probs, figures), -1)

    def _judge(self, read: Tensor) -> Tensor:
        return self.out(self.hidden(read).tanh())[..., 0]


@dataclass(frozen=True, slots=True)
class Losses:
    """Of a batch of episodes, each a mean over actions. explained: share of the returns' variance, by the baseline."""

    policy: Tensor
    value: Tensor
    entropy: Tensor
    kl: Tensor
    explained: float

    def figures(self) -> dict[str, float]:
        """By the names that they are logged under."""
        return {
            "policy_loss": self.policy.item(),
            "value_loss": self.value.item(),
            "entropy": self.entropy.item(),
            "kl": self.kl.item(),
            "explained_variance": self.explained,
        }


def advantages_and_returns(episodes: Episodes, values: Tensor, config: RLConfig) -> tuple[Tensor, Tensor]:
    """What each action was worth beside what the baseline expected, and what it should have expected: twice [B, N].

    Args: values [B, N]: the baseline's, of where each action was chosen.
    """
    taken = episodes.taken.T
    values = values.detach().T.masked_fill(~taken, 0.0)
    last = torch.arange(len(taken))[:, None] == taken.sum(0) - 1
    rewards = last * episodes.rewards
    never = torch.zeros_like(last)
    if config.use_gae:
        later = torch.cat((values[1:], torch.zeros_like(values[:1])))
        advantages = gae(rewards, values, later, last, never, config.gamma, config.gae_lambda)
        returns = advantages + values
    else:
        returns = discounted_returns(rewards, torch.zeros_like(values), last, never, config.gamma)
        advantages = returns - values
    return advantages.T, returns.T


def value_loss(episodes: Episodes, values: Tensor, returns: Tensor) -> Tensor:
    """Mean squared error of what the baseline expected; values, returns [B, N]."""
    return _mean((values - returns).square(), episodes.taken)


def episode_losses(
    episodes: Episodes, logits: Tensor, reference_logits: Tensor, values: Tensor, config: RLConfig
) -> Losses:
    """The policy's loss, whose gradient is REINFORCE's (Williams 1992), and what stands beside it.

    Args: logits, reference_logits [B, N, V]: of the policy, and of the frozen model that it began with. values [B, N].
    """
    taken = episodes.taken
    advantages, returns = advantages_and_returns(episodes, values, config)
    log_probs, reference = logits.log_softmax(-1), reference_logits.log_softmax(-1)
    chosen = log_probs.gather(-1, episodes.actions[..., None])[..., 0]
    probs = log_probs.exp()

    return Losses(
        policy=-_mean(normalized(advantages, taken) * chosen, taken),
        value=value_loss(episodes, values, returns),
        entropy=-_mean((probs * log_probs).sum(-1), taken),
        kl=_mean((probs * (log_probs - reference)).sum(-1), taken),
        explained=explained_variance(values.detach()[taken], returns[taken]),
    )


def _mean(each: Tensor, taken: Tensor) -> Tensor:
    return (each * taken).sum() / taken.sum()
