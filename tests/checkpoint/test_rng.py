from pathlib import Path

import pytest
import torch

from esper.checkpoint import Checkpoint, pack_generators, read_bundle, unpack_generators, write_bundle
from esper.errors import CheckpointError


def generators(seed: int) -> dict[str, torch.Generator]:
    return {name: torch.Generator().manual_seed(seed + i) for i, name in enumerate(("shuffle", "distortion.train"))}


def draw(named: dict[str, torch.Generator]) -> list[float]:
    # An odd count of normals leaves one waiting inside the generator: it is part of the state.
    return [x for generator in named.values() for x in torch.randn(3, generator=generator).tolist()]


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    first, second = generators(0), generators(5)
    draw(first)
    write_bundle(tmp_path / "c", Checkpoint(tensors={"w": torch.zeros(2), **pack_generators(first)}))
    expected = draw(first)
    unpack_generators(second, read_bundle(tmp_path / "c").tensors)
    assert draw(second) == expected


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    unpack_generators(generators(1), pack_generators(generators(0)))
    assert torch.equal(torch.get_rng_state(), before)


def test_names_must_be_the_same() -> None:
    packed = pack_generators(generators(0))
    with pytest.raises(CheckpointError, match="differ: extra"):
        unpack_generators(generators(0) | {"extra": torch.Generator()}, packed)
    with pytest.raises(CheckpointError, match=r"differ: distortion\.train"):
        unpack_generators({"shuffle": torch.Generator()}, packed)


def test_a_state_of_another_kind_of_device_is_refused_and_nothing_changed() -> None:
    named = generators(0)
    packed = pack_generators(generators(7))
    packed["rng.distortion.train"] = torch.zeros(16, dtype=torch.uint8)
    with pytest.raises(CheckpointError, match="Resume on the kind of device"):
        unpack_generators(named, packed)
    assert draw(named) == draw(generators(0))
