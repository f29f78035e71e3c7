"""A trunk and three specialists of it, trained for a few seconds on three synthetic domains."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from esper.kasmina.decoder import Decoder
from esper.tasks.task import named_generator
from esper.tasks.text.corpus import draw_windows

VOCABULARY, LENGTH = 264, 32
DOMAINS = ("up", "down", "twice")


def stream(domain: str, split: str, count: int) -> torch.Tensor:
    """Letters that go up, or down, or come twice; now and then one that nothing tells."""
    step = {"up": 1, "down": -1, "twice": 0}[domain]
    generator = named_generator(0, f"{domain}/{split}")
    noise = torch.randint(26, (count,), generator=generator)
    jumps = torch.rand(count, generator=generator) < 0.15
    letters, place = [], 0
    for number in range(count):
        moved = place + (step if domain != "twice" else number % 2)
        place = int(noise[number]) if jumps[number] else moved % 26
        letters.append(97 + place)
    return torch.tensor(letters)


def train(network: Decoder, shares: dict[str, float], streams, steps: int, rate: float, name: str) -> Decoder:
    optimizer = torch.optim.AdamW(network.parameters(), rate)
    generator = named_generator(0, name)
    for _ in range(steps):
        drawn = [
            draw_windows(streams[domain], round(16 * share), LENGTH, generator) for domain, share in shares.items()
        ]
        x, y = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        loss = F.cross_entropy(network(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="session")
def family():
    """.streams[split][domain], .trunk, .specialists[domain], .token_bytes"""
    streams = {
        split: {domain: stream(domain, split, count) for domain in DOMAINS}
        for split, count in (("train", 8000), ("val", 2000), ("test", 2000))
    }
    even = dict.fromkeys(DOMAINS, 1 / 3)
    network = Decoder(VOCABULARY, 32, 2, 2, LENGTH, generator=named_generator(0, "trunk"))
    trunk = train(network, even, streams["train"], 80, 1e-2, "trunk")
    specialists = {
        domain: train(
            copy.deepcopy(trunk),
            {each: 0.75 if each == domain else 0.125 for each in DOMAINS},
            streams["train"],
            40,
            3e-3,
            domain,
        )
        for domain in DOMAINS
    }
    token_bytes = torch.ones(VOCABULARY, dtype=torch.int64)
    token_bytes[256:] = 0
    return SimpleNamespace(streams=streams, trunk=trunk, specialists=specialists, token_bytes=token_bytes)
