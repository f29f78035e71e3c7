"""Files of ours are files of the safetensors library, and the other way round."""

import json

import pytest
import safetensors.torch
import torch

from esper.checkpoint.layout import DTYPE_NAMES, lay_out, places
from esper.checkpoint.tensors import decode_tensors, encode_tensors

TENSORS = {
    f"{name} {'x'.join(map(str, shape))}": torch.arange(24).to(dtype)[: torch.Size(shape).numel()].view(shape)
    for dtype, name in DTYPE_NAMES.items()
    for shape in ((), (3,), (2, 3, 4), (0, 2))
}


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[object, ...]]:
    return {
        name: (tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).tolist())
        for name, tensor in tensors.items()
    }


def test_the_library_reads_what_is_written() -> None:
    parts, _ = encode_tensors(TENSORS)
    assert bits(safetensors.torch.load(b"".join(parts))) == bits(TENSORS)


def test_what_the_library_writes_is_read() -> None:
    data = safetensors.torch.save(TENSORS, metadata={"made by": "another writer"})
    assert bits(decode_tensors(data, {}, "file")) == bits(TENSORS)


def test_tensors_lie_aligned_and_without_gaps() -> None:
    head, order = lay_out(TENSORS)
    data = head + bytes(sum(tensor.nbytes for tensor in TENSORS.values()))
    found = places(memoryview(data))
    assert sorted(place.name for place in found) == sorted(order)
    assert all(place.start % place.dtype.itemsize == 0 for place in found)


def test_a_head_that_is_not_padded_is_read_all_the_same() -> None:
    header = json.dumps({"w": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}).encode()
    header += b" " * (1 - len(header) % 2)  # an odd length: no number is aligned
    data = len(header).to_bytes(8, "little") + header + torch.tensor([1.5, -2.0]).double().numpy().tobytes()
    tensor = decode_tensors(data, {}, "file")["w"]
    assert tensor.tolist() == [1.5, -2.0]
    assert tensor.data_ptr() % 8 == 0


def w(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([], "no JSON object"),
        ({"w": 3}, "not described"),
        ({"w": w() | {"more": 1}}, "not described"),
        ({"w": w(dtype="F9")}, "unknown dtype 'F9'"),
        ({"w": w(dtype=[])}, "unknown dtype"),
        ({"w": w(shape=[-2])}, "malformed shape"),
        ({"w": w(shape=[2.0])}, "malformed shape"),
        ({"w": w(offsets=[0])}, "malformed shape or data_offsets"),
        ({"w": w(shape=[3])}, "does not fit its shape"),
        ({"w": w(offsets=[8, 0])}, "does not fit"),
        ({"w": w(), "v": w()}, "does not fit its shape and its neighbours"),
        ({"w": w(shape=[1], offsets=[4, 8])}, "does not fit"),
        ({"w": w(shape=[1], offsets=[0, 4])}, "accounts for"),
        ({"w": w(shape=[4], offsets=[0, 16])}, "accounts for"),
        ({}, "accounts for"),
    ],
)
def test_a_head_that_does_not_fit_the_bytes_is_refused(header: object, message: str) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(ValueError, match=message):
        places(memoryview(len(text).to_bytes(8, "little") + text + bytes(8)))


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 8, (9).to_bytes(8, "little") + b"{}"])
def test_a_head_that_is_cut_short_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="cut short"):
        places(memoryview(data))
