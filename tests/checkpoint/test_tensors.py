import pytest
import torch
from torch import Tensor, nn

from esper.checkpoint.tensors import compare_tensors, decode_tensors, encode_tensors
from esper.errors import CheckpointError


def encode(tensors: dict[str, Tensor]) -> tuple[bytes, dict[str, str]]:
    parts, aliases = encode_tensors(tensors)
    return b"".join(parts), aliases


def round_trip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    data, aliases = encode(tensors)
    return decode_tensors(data, aliases, "file")


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


VIEWED = noise(6, 8)
EXACT = {
    "bfloat16": noise(3, 4).bfloat16(),
    "float16": noise(3).half(),
    "float64": noise(3).double(),
    "float8": noise(5).to(torch.float8_e4m3fn),
    "complex": torch.complex(noise(3), noise(3)),
    "conjugate": torch.complex(noise(3), noise(3)).conj(),
    "bool": torch.tensor([True, False]),
    "int64": torch.tensor([-(2**62), 2**62]),
    "uint8": torch.arange(256).to(torch.uint8),
    "0-d": torch.tensor(1.5),
    "0-d int": torch.tensor(7),
    "empty": torch.empty(0),
    "empty with a shape": torch.empty(3, 0, 2, dtype=torch.int32),
    "transposed": noise(3, 4).t(),
    "channels last": noise(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "expanded": noise(1, 3).expand(4, 3),
    "strided": noise(10)[::3],
    "slice of a stack": noise(4, 3, 3)[2],
    "dots.in.the.name": noise(2),
    "a name with spaces, ü and \U0001f331": noise(2),
    "": noise(2),
    "not finite": torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0]),
    "requires grad": noise(2).requires_grad_(),
    "parameter": nn.Parameter(noise(2, 2)),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_tensor_comes_back_exactly(name: str) -> None:
    tensor = EXACT[name].detach()
    back = round_trip({name: EXACT[name]})[name]
    assert (back.dtype, back.shape, back.is_contiguous()) == (tensor.dtype, tensor.shape, True)
    expected = tensor.resolve_conj().contiguous()
    assert torch.equal(back.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))  # bit for bit


def test_all_together_and_none_at_all() -> None:
    assert round_trip(EXACT).keys() == EXACT.keys()
    assert round_trip({}) == {}


def test_tied_tensors_are_stored_once_and_stay_tied() -> None:
    weight = noise(100, 100)
    data, aliases = encode({"a": weight, "b": weight.detach(), "c": nn.Parameter(weight)})
    assert aliases == {"b": "a", "c": "a"}
    assert len(data) < 2 * weight.nbytes
    back = decode_tensors(data, aliases, "file")
    assert back["a"] is back["b"] is back["c"]
    assert torch.equal(back["a"], weight)


@pytest.mark.parametrize(
    "views",
    [
        {"whole": VIEWED, "row": VIEWED[1], "same row": VIEWED[1:2]},
        {"w": VIEWED, "w.t": VIEWED.t()},
        {"first": VIEWED[:4], "overlapping": VIEWED[2:]},
        {"left": VIEWED[:, :4], "right": VIEWED[:, 4:]},
        {f"member {i}": VIEWED[i] for i in range(6)},
        {"as float": VIEWED, "as int": VIEWED.view(torch.int32)},
        {"z": (z := torch.complex(noise(3), noise(3))), "conjugate": z.conj()},
        {"z": torch.complex(noise(3), noise(3)).conj(), "other": torch.complex(noise(3), -noise(3)).conj()},
        {"empty": torch.empty(0), "other empty": torch.empty(0), "empty view": VIEWED[:0], "whole": VIEWED},
    ],
)
def test_views_that_are_not_the_same_come_back_apart(views: dict[str, Tensor]) -> None:
    data, aliases = encode(views)
    assert aliases == {}
    back = decode_tensors(data, aliases, "file")
    assert {name: tensor.tolist() for name, tensor in back.items()} == {name: v.tolist() for name, v in views.items()}
    filled = [tensor.untyped_storage().data_ptr() for tensor in back.values() if tensor.numel()]
    assert len(set(filled)) == len(filled)


def test_what_is_read_owns_its_memory() -> None:
    data, aliases = encode({"w": torch.zeros(4), "b": torch.zeros(2)})
    first, second = decode_tensors(data, aliases, "file"), decode_tensors(data, aliases, "file")
    first["w"].fill_(1.0)
    assert second["w"].sum() == first["b"].sum() == 0


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"m": torch.empty(2, device="meta")}, "'m' has no values yet"),
        ({"lazy": nn.LazyLinear(3).weight}, "'lazy' has no values yet"),
        ({"s": torch.eye(2).to_sparse()}, "'s' .*sparse_coo.* cannot be stored"),
        ({"c": torch.zeros(2, dtype=torch.complex128)}, "'c' .*complex128.* cannot be stored"),
        ({"__metadata__": torch.zeros(2)}, "cannot be named '__metadata__'"),
        ({3: torch.zeros(2)}, "cannot be named 3"),
        ({"x": [1.0]}, "'x' is a list, expected a tensor"),
    ],
)
def test_what_cannot_be_stored_is_named(tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        encode_tensors(tensors)


@pytest.mark.parametrize("aliases", [{"b": "gone"}, {"a": "a"}])
def test_aliases_that_the_tensors_contradict_are_refused(aliases: dict[str, str]) -> None:
    data, _ = encode({"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="tied to"):
        decode_tensors(data, aliases, "file")


def test_every_difference_from_what_is_expected_is_told() -> None:
    expected = {"same": torch.zeros(1), "gone": torch.zeros(1), "shape": torch.zeros(2, 3)}
    found = {"same": torch.ones(1), "new": torch.zeros(1), "shape": torch.zeros(3, 2)}
    with pytest.raises(CheckpointError) as caught:
        compare_tensors(expected, found, "file")
    for part in ("'gone' is missing", "'new' is not expected", "'shape' is float32[3, 2], expected float32[2, 3]"):
        assert part in str(caught.value)
    with pytest.raises(CheckpointError, match=r"'w' is float32\[1\], expected float64\[1\]"):
        compare_tensors({"w": torch.zeros(1).double()}, {"w": torch.zeros(1)}, "file")
    with pytest.raises(CheckpointError, match="; and 7 more"):
        compare_tensors({str(i): torch.zeros(1) for i in range(10)}, {}, "file")
    compare_tensors(expected, {name: tensor + 1 for name, tensor in expected.items()}, "file")
