import pytest
import torch

from esper.errors import CheckpointError
from esper.forge.compression.codec import encode
from esper.forge.compression.config import GroupConfig, PlainConfig
from esper.forge.compression.container import decompress, pack, unpack


def packed():
    weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    return pack({"a.weight": encode(weight, "group", GroupConfig()), "b": encode(weight[0], "plain", PlainConfig())})


def test_what_was_packed_comes_back():
    format, tensors = decompress(pack(unpack(packed())[1], "other"))
    assert format == "other"
    assert list(tensors) == ["a.weight", "b"] and tensors["a.weight"].shape == (20, 30)


def test_there_is_little_beside_the_payload():
    data = packed()
    payload = sum(encoded.num_bytes for encoded in unpack(data)[1].values())
    assert len(data) < payload + 200


@pytest.mark.parametrize("cut", [0, 3, 7, 8, 40, 200, -1])
def test_what_was_cut_short_is_refused_in_a_line(cut):
    with pytest.raises(CheckpointError) as refused:
        decompress(packed()[:cut])
    assert "\n" not in str(refused.value)


def test_what_is_longer_or_of_another_kind_is_refused():
    data = packed()
    for other in (torch.cat([data, data[:1]]), data.float(), data[None], torch.zeros(100, dtype=torch.uint8)):
        with pytest.raises(CheckpointError):
            decompress(other)


def test_no_flipped_byte_of_the_directory_is_read_as_something_else():
    data = packed()
    _, right = decompress(data)
    head = 8 + int.from_bytes(data[:4].numpy().tobytes(), "little")
    for place in range(0, head, 3):
        altered = data.clone()
        altered[place] ^= 0x55
        try:
            found = decompress(altered)[1]
        except CheckpointError as refused:
            assert "\n" not in str(refused)
        else:  # a name, or the like: nothing was run, nothing is larger than it was
            assert sum(tensor.numel() for tensor in found.values()) <= 10 * sum(t.numel() for t in right.values())
