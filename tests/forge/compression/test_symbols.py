import pytest
import torch

from esper.errors import CheckpointError
from esper.forge.compression.symbols import Symbols, expand, squeeze, unpack_symbols


def drawn(count, levels):
    return torch.randint(levels, (count,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("levels", [2, 3, 4, 7, 15, 16, 200, 256])
def test_symbols_come_back_in_no_more_than_their_bits(levels):
    symbols = Symbols(drawn(1003, levels), levels)
    width = (levels - 1).bit_length()
    assert len(symbols.stream) <= 1 + (1003 * width + 7) // 8
    assert torch.equal(unpack_symbols(symbols.stream, 1003, levels).values, symbols.values)


def test_five_trits_take_a_byte():
    assert len(Symbols(drawn(1000, 3), 3).stream) == 1 + 200


def test_what_repeats_is_shorter_still():
    symbols = Symbols(drawn(100, 200).repeat(20), 200)
    assert len(symbols.stream) < 300
    assert torch.equal(unpack_symbols(symbols.stream, 2000, 200).values, symbols.values)


@pytest.mark.parametrize("count", [1, 1000])
def test_sizes_are_estimated_within_a_few_bytes(count):
    symbols = Symbols(drawn(count, 12), 12)
    assert symbols.num_bytes == pytest.approx(len(symbols.stream), abs=8)


@pytest.mark.parametrize("levels", [3, 8, 200])
def test_what_was_altered_is_refused(levels):
    stream = Symbols(drawn(1003, levels), levels).stream
    with pytest.raises(CheckpointError):
        unpack_symbols(stream[:-3], 1003, levels)
    with pytest.raises(CheckpointError):
        unpack_symbols(stream, 1500, levels)
    with pytest.raises(CheckpointError, match="no form known"):
        unpack_symbols(torch.cat([torch.tensor([9], dtype=torch.uint8), stream[1:]]), 1003, levels)


def test_a_symbol_beyond_its_levels_is_refused():
    with pytest.raises(CheckpointError, match="there are 6"):
        unpack_symbols(Symbols(torch.tensor([1, 7, 2], dtype=torch.uint8), 8).stream, 3, 6)


def test_little_that_expands_to_much_is_cut_off():
    with pytest.raises(CheckpointError, match="does not hold 10 bytes"):
        expand(squeeze(bytes(1 << 24)), 10)
    with pytest.raises(CheckpointError, match="altered"):
        expand(b"\xff" * 20, 10)
