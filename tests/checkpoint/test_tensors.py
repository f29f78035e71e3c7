import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

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


class Named(Tensor):
    """A class of one's own, whose values are a tensor's."""


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
    "buffer": nn.Buffer(noise(4, 4)[:, ::2]),
    "class of its own": noise(3, 4).t().as_subclass(Named),
    # A dimension of one element may have any stride, and torch calls the tensor contiguous all the same.
    "column of one row": noise(1, 5)[:, 0],
    "every fifth of five": noise(5)[::5],
    "one of many, bfloat16": noise(25).bfloat16()[3::30],
    "one of many, bool": (noise(9) > 0)[5::9],
    "one of many, complex": torch.complex(noise(4), noise(4))[1::4],
    "one of many, float8": noise(9).to(torch.float8_e5m2)[2::9],
    "ones between": noise(9).double()[1::9][None, :, None],
    "wild strides": noise(9).as_strided((1, 3, 1), (100, 2, 7)),
    "no stride at all": noise(1).expand(1, 1),
    "empty, wild strides": torch.empty(9).as_strided((0, 3), (5, 9)),
    "windows that overlap": noise(6).as_strided((4, 3), (1, 1)),
    "offset": noise(9)[3:],
    "diagonal": noise(4, 4).diagonal(),
    "negative bit": torch.complex(noise(3), noise(3)).conj().imag,
    "one of many, conjugate": torch.complex(noise(4), noise(4)).conj()[1::4],
}
# The values that each of them is refused for.
REFUSED = {
    "meta": (torch.empty(2, device="meta"), "has no values yet"),
    "lazy": (nn.LazyLinear(3).weight, "has no values yet"),
    "freed": ((freed := noise(3), freed.untyped_storage().resize_(0))[0], "its storage was freed"),
    "cut short": ((cut := noise(2, 8), cut.untyped_storage().resize_(60))[0], "its storage was freed"),
    "zero by definition": (torch._efficientzerotensor(3), "has no values"),
    "larger than memory": (noise(1).expand(10**14), "cannot be laid out"),
    "sparse": (torch.eye(2).to_sparse(), r"\(torch.sparse_coo, torch.float32\) cannot be stored"),
    "sparse rows": (torch.eye(2).to_sparse_csr(), r"\(torch.sparse_csr, .*cannot be stored"),
    "mkldnn": (noise(2, 2).to_mkldnn(), "cannot be stored"),
    "complex128": (torch.zeros(2, dtype=torch.complex128), r"torch.complex128\) cannot be stored"),
    "complex32": (torch.zeros(2, dtype=torch.complex32), "cannot be stored"),
    "float8 exponents": (torch.ones(2).to(torch.float8_e8m0fnu), "cannot be stored"),
    "float4": (torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "cannot be stored"),
    "quantised": (torch.quantize_per_tensor(noise(3), 0.1, 0, torch.quint8), "quint8.*cannot be stored"),
    "nested": (torch._nested_tensor_from_tensor_list([noise(2), noise(3)]), "cannot be stored"),
    "two in one": (TwoTensor(noise(2), noise(2)), r"\(TwoTensor\) cannot be stored"),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_tensor_comes_back_exactly(name: str) -> None:
    tensor = EXACT[name].detach()
    back = round_trip({name: EXACT[name]})[name]
    assert (back.dtype, back.shape, back.is_contiguous()) == (tensor.dtype, tensor.shape, True)
    expected = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)  # contiguous whatever its strides were
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
        *(({name: tensor}, f"'{name}'.*{message}") for name, (tensor, message) in REFUSED.items()),
        ({"__metadata__": torch.zeros(2)}, "cannot be named '__metadata__'"),
        ({"\ud800": torch.zeros(2)}, r"cannot be named '\\ud800'"),
        ({3: torch.zeros(2)}, "cannot be named 3"),
        ({"x": [1.0]}, "'x' is a list, expected a tensor"),
    ],
)
def test_what_cannot_be_stored_is_named(tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        encode_tensors(tensors)


def test_a_jagged_tensor_is_refused() -> None:
    jagged = torch.nested.nested_tensor([noise(2), noise(3)], layout=torch.jagged)  # a second, which no table can wait
    with pytest.raises(CheckpointError, match=r"'it'.*cannot be stored"):
        encode_tensors({"it": jagged})


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
