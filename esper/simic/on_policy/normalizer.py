"""Observations on a common scale."""

import torch
from torch import Tensor, nn

from esper.errors import LearnerError


class RunningNormalizer(nn.Module):
    """Shifts and scales each feature by the mean and variance of everything it was ever updated with.

    Before the first update it passes values through. Moments are float64, saved with the policy, and change in
    `update` alone. Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance".

    Args:
        clip: results are kept within [-clip, clip], so that a feature that has hardly ever moved cannot shout.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, features: int, clip: float = 10.0, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.clip, self.epsilon = clip, epsilon
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(features, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        """Normalised values, of torch's default type as the networks are. Args: values [..., F]."""
        scaled = (values - self.mean) * (self.variance + self.epsilon).rsqrt()
        return scaled.clamp(-self.clip, self.clip).to(torch.get_default_dtype())

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take in a batch [..., F]. Raises LearnerError where a value is not finite; nothing is then changed."""
        batch = values.reshape(-1, len(self.mean)).double()
        mean, variance = batch.mean(0), batch.var(0, correction=0)
        if not variance.isfinite().all():
            raise LearnerError("Some observations are NaN or infinite; expected finite numbers.")
        count = self.count + len(batch)
        share = len(batch) / count
        change = mean - self.mean
        spread = self.variance * (1 - share) + variance * share + change.square() * share * (1 - share)
        self.mean += change * share
        self.variance.copy_(spread)
        self.count.copy_(count)
