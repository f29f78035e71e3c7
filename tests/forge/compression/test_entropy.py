import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.errors import CheckpointError
from esper.forge.compression.entropy import coded_bytes, decode_symbols, encode_symbols


def gaussian(count, spread=2.5):
    drawn = np.random.default_rng(0).normal(0, spread, count)
    return np.minimum(np.abs(drawn.round()), 255).astype(np.uint8)


def entropy(symbols):
    shares = np.bincount(symbols) / len(symbols)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=3000))
def test_any_symbols_come_back(values):
    symbols = np.array(values, np.uint8)
    assert (decode_symbols(encode_symbols(symbols), len(symbols)) == symbols).all()


def test_takes_few_bits_more_than_the_entropy():
    symbols = gaussian(40_000)
    bits = 8 * len(encode_symbols(symbols)) / len(symbols)
    assert entropy(symbols) < bits < entropy(symbols) + 0.05


def test_follows_frequencies_that_change():
    symbols = np.concatenate([gaussian(20_000, 0.5), gaussian(20_000, 8.0)])
    halves = (entropy(symbols[:20_000]) + entropy(symbols[20_000:])) / 2
    assert entropy(symbols) > halves + 0.25
    assert 8 * len(encode_symbols(symbols)) / len(symbols) < halves + 0.15


@pytest.mark.parametrize("count", [1, 700, 5000, 40_000])
def test_size_is_known_without_encoding(count):
    symbols = gaussian(count)
    assert coded_bytes(symbols) == pytest.approx(len(encode_symbols(symbols)), abs=8, rel=0.005)


def test_what_was_altered_is_refused():
    symbols = gaussian(5000)
    data = encode_symbols(symbols)
    for count in (4000, 5200):
        with pytest.raises(CheckpointError, match="symbols is"):
            decode_symbols(data, count)
    for altered in (data[:-2], data[:3], data + b"\0\0", data + b"\0"):
        with pytest.raises(CheckpointError, match="symbols is"):
            decode_symbols(altered, 5000)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    with pytest.raises(CheckpointError, match="symbols is"):
        decode_symbols(bytes(flipped), 5000)
