"""Writing on from many prompts at once: each as if it were alone."""

import pytest
import torch

from esper.errors import ForgeError
from esper.forge.sampling import sample
from esper.tasks.task import named_generator
from tests.forge.models import network

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [4], [11, 12]]
STOP = 258


class Plain(torch.nn.Module):
    """The same decoder, without its cache."""

    def __init__(self, host):
        super().__init__()
        self.host, self.block_size = host, host.block_size

    def forward(self, tokens):
        return self.host(tokens)


def greedily(host, prompt, count):
    tokens, found = list(prompt), []
    while len(found) < count and (not found or found[-1] != STOP):
        found.append(int(host(torch.tensor([tokens]))[0, -1].argmax()))
        tokens.append(found[-1])
    return found


@pytest.mark.parametrize("wrap", [lambda host: host, Plain])
def test_prompts_of_any_length_are_gone_on_with_as_if_alone(wrap):
    host = network(seed=3)
    with torch.no_grad():  # so that some rows end early, and are dropped, and others do not
        stop = greedily(host, PROMPTS[0], 3)[-1]
        host.embedding.weight[STOP] = host.embedding.weight[stop] * 1.001
    expected = [greedily(host, prompt, 8) for prompt in PROMPTS]
    assert len({len(text) for text in expected}) > 1
    assert sample(wrap(host), PROMPTS, 8, STOP) == expected


@pytest.mark.slow
def test_what_is_drawn_is_as_likely_as_the_network_says():
    host = network(seed=1)
    with torch.no_grad():
        host.embedding.weight.mul_(4.0)
        wanted = (host(torch.tensor([[4]]))[0, -1] / 2.0).softmax(-1)
    drawn = sample(host, [[4]] * 20_000, 1, STOP, 2.0, named_generator(0, "drawn"))
    counts = torch.tensor([text[0] for text in drawn]).bincount(minlength=len(wanted))
    error = (counts / 20_000 - wanted).abs()
    assert bool((error <= 5 * (wanted * (1 - wanted) / 20_000).sqrt() + 1e-4).all())


def test_the_context_ends_what_is_written():
    host = network()
    written = sample(host, [[1] * 30, [2]], 100, STOP)
    assert len(written[0]) <= 2 and len(written[1]) <= 31
    with pytest.raises(ForgeError, match="a prompt of 32 tokens leaves no room"):
        sample(host, [[1] * 32], 1, STOP)
    assert sample(host, [], 5, STOP) == []
