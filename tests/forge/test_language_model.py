"""Text that follows a prompt."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esper.errors import ConfigError
from esper.forge.card import ModelCard
from esper.forge.language_model import LanguageModel
from esper.kasmina import Decoder
from tests.forge.models import network, tokenizer

CARD = ModelCard(phase="cognate", architecture={}, tokenizer={}, data_fingerprint="", seed=0)
TEXT = "a stitch in time saves nine; "


def language_model(host: nn.Module) -> LanguageModel:
    return LanguageModel(host, tokenizer(), CARD).eval()


@pytest.fixture(scope="module")
def learned() -> LanguageModel:
    """A model that knows one sentence by heart, and that an end follows a full stop."""
    text, host = tokenizer(), network(block_size=48)
    stream = torch.tensor(text.encode(TEXT * 4))
    ends = torch.tensor([*text.encode("the end."), text.eos_token_id])
    optimizer = torch.optim.AdamW(host.parameters(), lr=1e-2)
    for step in range(120):
        start = step % len(TEXT)
        loss = F.cross_entropy(host(stream[None, start : start + 48])[0], stream[start + 1 : start + 49])
        loss = loss + F.cross_entropy(host(ends[None, :-1])[0], ends[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return language_model(host)


class Uncached(nn.Module):
    """A decoder that keeps nothing of what it has read."""

    def __init__(self, inner: Decoder) -> None:
        super().__init__()
        self.inner, self.block_size = inner, inner.block_size

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        assert tokens.shape[1] <= self.block_size
        return self.inner(tokens)


def test_the_likeliest_text_is_what_was_learned_also_beyond_the_context(learned):
    expected = (TEXT * 6)[len("a stitch") :]
    assert learned.generate("a stitch", max_new_tokens=120, temperature=0) == expected[:120]


def test_it_ends_where_the_model_ends_the_text(learned):
    assert learned.generate("the", max_new_tokens=50, temperature=0) == " end."
    assert learned.generate("the end.", max_new_tokens=50, temperature=0) == ""


@pytest.mark.parametrize("prompt", ["", "x", TEXT, TEXT * 5], ids=["empty", "short", "long", "longer than the context"])
def test_the_cache_changes_nothing(prompt):
    host = network()
    cached, plain = language_model(host), language_model(Uncached(host))
    for temperature in (0, 1.0):
        settings = {"max_new_tokens": 70, "temperature": temperature, "seed": 3}
        assert cached.generate(prompt, **settings) == plain.generate(prompt, **settings)


def test_the_same_seed_gives_the_same_text_whatever_was_drawn_before():
    model = language_model(network())
    first = model.generate("x", max_new_tokens=30, seed=1)
    torch.rand(3)
    assert model.generate("x", max_new_tokens=30, seed=1) == first != model.generate("x", max_new_tokens=30, seed=2)
    state = torch.get_rng_state()
    model.generate("x", max_new_tokens=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_higher_temperature_is_less_sure():
    model = language_model(network())
    model.host.norm.weight.data *= 4
    greedy = model.generate("x", max_new_tokens=20, temperature=0)
    assert model.generate("x", max_new_tokens=20, temperature=1e-3, seed=5) == greedy
    assert model.generate("x", max_new_tokens=20, temperature=2.0, seed=5) != greedy


def test_of_a_prompt_longer_than_the_context_the_end_is_read_and_nothing_warns():
    model = language_model(network())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut = model.generate((TEXT * 9)[-32:], max_new_tokens=20, temperature=0)
        assert model.generate(TEXT * 9, max_new_tokens=20, temperature=0) == cut


def test_where_the_context_is_full_the_older_half_is_forgotten():
    model = language_model(network())
    text = tokenizer()
    tokens, written = text.encode(TEXT), []
    for _ in range(20):
        written.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        tokens = [*tokens, written[-1]]
        if len(tokens) > 32:
            tokens = tokens[-16:]
    assert model.generate(TEXT, max_new_tokens=20, temperature=0) == text.decode(written)


def test_pieces_are_the_text_and_end_between_characters(learned):
    pieces = list(learned.stream("a stitch", max_new_tokens=40, temperature=0))
    assert "".join(pieces) == learned.generate("a stitch", max_new_tokens=40, temperature=0) and len(pieces) == 40
    model = language_model(network())
    for seed in range(5):
        settings = {"max_new_tokens": 60, "seed": seed}
        assert "".join(model.stream("é", **settings)) == model.generate("é", **settings)


class Scripted(nn.Module):
    """Says these bytes one after the other."""

    def __init__(self, script: bytes) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.script, self.block_size, self.place = script, 64, 0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, 264)
        logits[..., self.script[self.place]] = 100.0
        self.place += 1
        return logits


def test_a_character_of_several_bytes_is_one_piece():
    script = "aé€😀b".encode()
    assert list(language_model(Scripted(script)).stream("", len(script), 0)) == ["a", "é", "€", "😀", "b"]
    broken = b"\xf0\x9fa\xff\xff\xff\xff\xffb"
    pieces = list(language_model(Scripted(broken)).stream("", len(broken), 0))
    assert "".join(pieces) == broken.decode("utf-8", "surrogateescape") and len(pieces) > 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"max_new_tokens": 1.5}, "max_new_tokens=1.5"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_is_out_of_range_is_told(settings, said):
    with pytest.raises(ConfigError, match=said):
        language_model(network()).generate("x", **settings)
    with pytest.raises(ConfigError, match="prompt"):
        language_model(network()).generate(b"x")


def test_no_tokens_are_no_text():
    assert language_model(network()).generate("x", max_new_tokens=0) == ""
