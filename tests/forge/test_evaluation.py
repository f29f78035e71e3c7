"""Scores of a model on a text, against what they are by hand."""

import math

import pytest
import torch
from torch import nn

from esper.errors import ConfigError, EsperError, ForgeError
from esper.forge.card import ModelCard
from esper.forge.evaluation import WindowScores, evaluate_corpus, window_losses
from esper.forge.language_model import LanguageModel
from esper.tasks.text.corpus import Corpus, Domain
from tests.forge.models import network, tokenizer

ONE = torch.ones(264, dtype=torch.int64)


class Successor(nn.Module):
    """Gives the token after each one the chance of 1/2, and all others the rest."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        chances = torch.full((*tokens.shape, 264), 0.5 / 263)
        return chances.scatter(2, (tokens + 1).unsqueeze(2) % 264, 0.5).log()


def stream(*tokens: int) -> torch.Tensor:
    return torch.tensor(tokens, dtype=torch.int32)


def test_losses_are_of_the_next_token():
    scores = window_losses(Successor(), stream(*range(10, 23)), 4, token_bytes=ONE)
    assert scores.hits.tolist() == scores.targets.tolist() == [4, 4, 4]
    assert scores.bits_per_byte == pytest.approx(1.0) and scores.nats_per_token == pytest.approx(math.log(2))
    wrong = window_losses(Successor(), stream(10, 11, 13, 14, 14), 4, token_bytes=ONE)
    assert (wrong.top1, wrong.hits.tolist()) == (0.5, [2])
    assert wrong.nats.item() == pytest.approx(2 * math.log(2) + 2 * math.log(263 / 0.5), rel=1e-6)


def test_bits_are_divided_by_the_bytes_that_the_targets_stand_for():
    token_bytes = torch.zeros(264, dtype=torch.int64)
    token_bytes[11], token_bytes[12] = 3, 2  # and one that is no text
    scores = window_losses(Successor(), stream(10, 11, 12, 13), 3, token_bytes=token_bytes)
    assert scores.bytes.tolist() == [5] and scores.bits_per_byte == pytest.approx(3 / 5)


def test_texts_that_are_pooled_count_by_their_tokens():
    right = window_losses(Successor(), stream(*range(10, 23)), 4, token_bytes=ONE)  # 12 tokens
    half = window_losses(Successor(), stream(10, 11, 13, 14, 14), 4, token_bytes=ONE)  # 4, of which 2
    pooled = WindowScores.pooled([right, half])
    assert pooled.top1 == 14 / 16 and len(pooled.nats) == 4
    assert pooled.nats_per_token == pytest.approx((12 * right.nats_per_token + 4 * half.nats_per_token) / 16)


def test_what_is_a_batch_does_not_matter_and_each_window_begins_anew():
    model, text = network(), torch.randint(264, (32 * 7 + 5,), generator=torch.Generator().manual_seed(0)).int()
    at_once, few = (window_losses(model, text, 32, batch, ONE) for batch in (64, 2))
    assert len(at_once.nats) == 7
    torch.testing.assert_close(at_once.nats, few.nats, rtol=1e-5, atol=0)
    alone = window_losses(model, text[64:97], 32, token_bytes=ONE)
    torch.testing.assert_close(alone.nats[0], at_once.nats[2], rtol=1e-5, atol=0)


def test_a_language_model_brings_its_tokenizer_and_stays_in_its_mode():
    card = ModelCard(phase="cognate", architecture={}, tokenizer={}, data_fingerprint="", seed=0)
    model = LanguageModel(network(), tokenizer(), card).train()
    text = torch.arange(40)
    assert window_losses(model, text, 8).bytes.tolist() == [8] * 4
    assert model.training and model.host.training
    with pytest.raises(ForgeError, match="Decoder has no tokenizer: give window_losses token_bytes="):
        window_losses(network(), text, 8)


def test_a_difference_is_between_windows_and_its_mean_that_of_the_figures():
    text = torch.randint(264, (32 * 20 + 1,), generator=torch.Generator().manual_seed(0))
    one, other = (window_losses(network(seed), text, 32, token_bytes=ONE) for seed in (0, 1))
    found = one.difference(other)
    assert found.mean == pytest.approx(one.bits_per_byte - other.bits_per_byte) and found.n == 20
    assert found.low < found.mean < found.high
    none = one.difference(one)
    assert (none.low, none.mean, none.high) == (0, 0, 0)
    with pytest.raises(EsperError, match="same length"):
        one.difference(_fewer(one))


def _fewer(scores):
    return type(scores)(scores.nats[1:], scores.targets[1:], scores.bytes[1:], scores.hits[1:])


def test_a_corpus_is_scored_domain_by_domain_on_the_split_that_is_asked_for():
    up, down = torch.arange(10, 50), torch.arange(50, 10, -1)
    domains = {"up": Domain("up", down, down, up), "down": Domain("down", up, up, down)}
    corpus = Corpus(domains, "", 0.0, tokenizer())
    tested, validated = (evaluate_corpus(Successor(), corpus, split, 8) for split in ("test", "val"))
    assert {name: score.top1 for name, score in tested.items()} == {"up": 1.0, "down": 0.0}
    assert {name: score.top1 for name, score in validated.items()} == {"up": 0.0, "down": 1.0}
    with pytest.raises(ConfigError, match="split=train"):
        evaluate_corpus(Successor(), corpus, "train", 8)


def test_a_text_shorter_than_a_window_is_told():
    with pytest.raises(ForgeError, match="8 tokens are no window of 8 and the token after it"):
        window_losses(Successor(), torch.arange(8), 8, token_bytes=ONE)
