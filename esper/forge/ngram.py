"""What counting alone predicts: n-gram models, the baseline of every language model here."""

import numpy as np
from torch import Tensor


def ngram_bits_per_byte(train: Tensor, test: Tensor, order: int, vocab_size: int, token_bytes: Tensor) -> float:
    """Bits a byte of the test text under an interpolated n-gram model of the training text.

    Args:
        train, test: token streams [L]. order: tokens a prediction is made of: 1 unigram, 3 trigram.
        token_bytes: bytes that each token stands for [V].

    Each order backs off to the one below by Witten-Bell smoothing, the unigram to an even distribution, so that every
    token has a probability. Source: Witten and Bell 1991, "The zero-frequency problem".
    """
    seen, asked = train.numpy().astype(np.int64), test.numpy().astype(np.int64)
    probability = np.full(len(asked), 1.0 / vocab_size)
    for length in range(order):
        probability = _interpolated(seen, asked, length, vocab_size, probability)
    bits = -np.log2(probability[order - 1 :]).sum()
    return float(bits / token_bytes.numpy()[asked[order - 1 :]].sum())


def _interpolated(seen: np.ndarray, asked: np.ndarray, length: int, vocab_size: int, below: np.ndarray) -> np.ndarray:
    """Probability of each asked token after its `length` tokens before; below: the same of one token less [L]."""
    if vocab_size ** (length + 1) >= 2**63:
        raise ValueError(f"an n-gram of {length + 1} tokens out of {vocab_size} has no number in 64 bits")
    seen_context, asked_context = _contexts(seen, length, vocab_size), _contexts(asked, length, vocab_size)
    grams, gram_counts = np.unique(seen_context * vocab_size + seen[length:], return_counts=True)
    contexts, starts = np.unique(grams // vocab_size, return_index=True)
    kinds = np.diff(np.append(starts, len(grams)))  # different tokens after each context
    totals = np.add.reduceat(gram_counts, starts)
    count = _looked_up(grams, gram_counts, asked_context * vocab_size + asked[length:])
    total, kind = _looked_up(contexts, totals, asked_context), _looked_up(contexts, kinds, asked_context)
    mixed = below.copy()
    known = total > 0
    tail = mixed[length:]
    tail[known] = (count + kind * tail)[known] / (total + kind)[known]
    return mixed


def _contexts(tokens: np.ndarray, length: int, vocab_size: int) -> np.ndarray:
    """The number of the `length` tokens before each position from `length` on."""
    number = np.zeros(len(tokens) - length, np.int64)
    for offset in range(length):
        number = number * vocab_size + tokens[offset : len(tokens) - length + offset]
    return number


def _looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key; 0 where there is no such key. keys: ascending."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0).astype(np.float64)
