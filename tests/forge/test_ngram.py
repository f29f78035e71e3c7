"""Bits per byte of counting, beside hand-computed values."""

import math

import pytest
import torch

from esper.forge.ngram import ngram_bits_per_byte

ONE_BYTE = torch.ones(3, dtype=torch.int64)


def test_a_unigram_by_hand():
    # a a b of three tokens: 2 of 3 seen; P(a) = (2 + 2/3) / (3 + 2), P(b) = (1 + 2/3) / 5, P(c) = (0 + 2/3) / 5
    train, test = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
    expected = -sum(map(math.log2, ((2 + 2 / 3) / 5, (1 + 2 / 3) / 5, (2 / 3) / 5))) / 3
    assert ngram_bits_per_byte(train, test, 1, 3, ONE_BYTE) == pytest.approx(expected, rel=1e-12)


def test_a_bigram_backs_off_to_the_unigram():
    # After a came a and b, once each: P(b | a) = (1 + 2 P(b)) / (2 + 2); after c came nothing: P(. | c) = P(.)
    train, test = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2, 0])
    unigram = [(2 + 2 / 3) / 5, (1 + 2 / 3) / 5, (2 / 3) / 5]
    after_b = unigram[2]  # nothing ever followed b
    expected = -sum(map(math.log2, ((1 + 2 * unigram[1]) / 4, after_b, unigram[0]))) / 3
    assert ngram_bits_per_byte(train, test, 2, 3, ONE_BYTE) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_of_all_tokens_add_up_to_one(order):
    train = torch.randint(4, (200,), generator=torch.Generator().manual_seed(0))
    bytes_of = torch.ones(5, dtype=torch.int64)
    context = train[: order - 1]
    total = sum(
        2 ** -ngram_bits_per_byte(train, torch.cat([context, torch.tensor([token])]), order, 5, bytes_of)
        for token in range(5)
    )
    assert total == pytest.approx(1.0, rel=1e-9)


def test_bits_are_shared_by_the_bytes_that_a_token_stands_for():
    train, test = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 1, 0])
    one = ngram_bits_per_byte(train, test, 1, 3, ONE_BYTE)
    assert ngram_bits_per_byte(train, test, 1, 3, 2 * ONE_BYTE) == pytest.approx(one / 2)


def test_more_context_predicts_what_repeats():
    text = torch.tensor([0, 1, 2, 1] * 100)
    bits = [ngram_bits_per_byte(text[:300], text[300:], order, 3, ONE_BYTE) for order in (1, 2, 3)]
    assert bits[0] > bits[1] > bits[2]
    assert bits[2] < 0.1
