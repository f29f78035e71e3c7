"""Five trits a byte."""

import pytest
import torch

from esper.errors import FormatError
from esper.forge.bitnet.trits import pack_trits, packed_bytes, unpack_trits
from esper.tasks.task import named_generator


@pytest.mark.parametrize("count", [*range(23), 1000, 1003])
def test_packing_is_exact_at_every_length(count):
    trits = torch.randint(-1, 2, (count,), generator=named_generator(count, "trits"))
    packed = pack_trits(trits)
    assert packed.dtype is torch.uint8 and len(packed) == packed_bytes(count) == (count + 4) // 5
    assert unpack_trits(packed, count).tolist() == trits.tolist()


def test_bytes_are_those_by_hand():
    assert pack_trits(torch.tensor([[1, 0, -1], [-1, 1, -1]])).tolist() == [2 + 3 + 0 + 0 + 2 * 81, 0 + 3 + 9 + 27 + 81]
    assert pack_trits(torch.ones(5)).tolist() == [242] and pack_trits(-torch.ones(5)).tolist() == [0]


def test_every_byte_that_five_trits_make_is_read():
    packed = torch.arange(243, dtype=torch.uint8)
    assert torch.equal(pack_trits(unpack_trits(packed, 5 * 243)), packed)


@pytest.mark.parametrize(
    ("packed", "count", "said"),
    [
        (torch.tensor([0, 243], dtype=torch.uint8), 10, "a byte of 243"),
        (torch.tensor([0], dtype=torch.uint8), 10, r"\[1\] where packed trits should be; expected torch.uint8 \[2\]"),
        (torch.tensor([0, 0, 0], dtype=torch.uint8), 10, r"expected torch.uint8 \[2\] for 10 trits"),
        (torch.tensor([0, 1]), 10, "torch.int64"),
        (torch.tensor([0, 0], dtype=torch.uint8), 9, "more than 9 packed trits"),
    ],
)
def test_what_was_not_packed_so_is_refused_in_a_line(packed, count, said):
    with pytest.raises(FormatError, match=said) as caught:
        unpack_trits(packed, count)
    assert "\n" not in str(caught.value)
