import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from esper.errors import CheckpointError
from esper.forge.compression.allocation import FAMILIES
from esper.forge.compression.codec import Statistics, decode, encode
from esper.forge.compression.codecs.hyper import trajectory
from esper.forge.compression.codecs.seedlm import register_bases
from esper.forge.compression.config import (
    CODECS,
    GridConfig,
    GroupConfig,
    HyperConfig,
    PlainConfig,
    SeedConfig,
    TernaryConfig,
    VectorConfig,
)
from esper.forge.compression.container import decompress, pack

SEED = SeedConfig(seed_bits=9)  # a short search
MATRICES = [
    ("group", GroupConfig(bits=4)),
    ("grid", GridConfig(bits=3.0)),
    ("vector", VectorConfig()),
    ("seedlm", SEED),
    ("hyper", HyperConfig()),
    ("ternary", TernaryConfig()),
]
SHAPES = [(48, 80), (7, 13), (1, 1), (3, 100)]


def weights(shape=(48, 80), seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def statistics(rows=48, columns=80):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(500, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return Statistics(features.T @ features / 500, torch.rand(rows, generator=generator) ** 3)


def relative_error(weight, codec, config):
    return float((decode(encode(weight, codec, config)) - weight).norm() / weight.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("codec", "config"), MATRICES)
def test_every_codec_takes_any_matrix(codec, config, shape):
    weight = weights(shape)
    packed = pack({"weight": encode(weight, codec, config)})
    found = decompress(packed)[1]["weight"]
    assert found.shape == shape and found.dtype == torch.float32 and found.is_contiguous()
    assert torch.equal(found, decode(encode(weight, codec, config)))
    assert (found - weight).norm() < 0.75 * weight.norm()


@pytest.mark.parametrize(("codec", "config"), MATRICES)
def test_zeros_come_back_as_zeros(codec, config):
    found = decode(encode(torch.zeros(16, 16), codec, config))
    assert found.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("codec", "configs"),
    [
        ("group", [GroupConfig(bits=bits) for bits in (3, 4, 8)]),
        ("grid", [GridConfig(bits=bits) for bits in (2.0, 3.0, 5.0)]),
        ("vector", [VectorConfig(dim=2, entries=entries) for entries in (16, 64, 256)]),
        ("seedlm", [replace(SEED, block=block) for block in (12, 8, 5)]),
        ("hyper", [HyperConfig(points=points) for points in (16, 64, 256)]),
    ],
)
def test_more_bytes_buy_less_error(codec, configs):
    weight = weights()
    encoded = [encode(weight, codec, config) for config in configs]
    sizes = [each.num_bytes for each in encoded]
    errors = [float((decode(each) - weight).norm()) for each in encoded]
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6 * errors[0]


def test_plain_values_are_exact_in_what_they_are_kept_as():
    values = torch.tensor([1.0, -2.5, 3e-4, 70000.0])
    assert torch.equal(decode(encode(values, "plain", PlainConfig(dtype="float32"))), values)
    halved = decode(encode(values, "plain", PlainConfig()))
    assert torch.equal(halved, values.clamp(max=65504).half().float())
    scalar = decode(encode(torch.tensor(0.3), "plain", PlainConfig(dtype="float32")))
    assert scalar.shape == () and scalar == torch.tensor(0.3)
    for dtype in ("uint8", "int8"):
        whole = torch.arange(243).to(getattr(torch, dtype))
        found = decode(encode(whole, "plain", PlainConfig(dtype=dtype)))
        assert torch.equal(found, whole) and found.dtype == whole.dtype


def test_ternary_weights_are_exact_at_a_trit_each():
    weight = (torch.randint(3, (64, 100), generator=torch.Generator().manual_seed(0)) - 1) * 0.037
    encoded = encode(weight, "ternary", TernaryConfig())
    assert torch.equal(decode(encoded), weight)
    assert encoded.payload["trits"].stream.numel() <= 1 + 64 * 100 // 5


def test_clipping_loses_no_more_than_the_largest_weight_does():
    weight = weights()
    weight[0, ::20] = 2.0  # outliers
    for bits in (3, 4):
        clipped, nearest = (
            relative_error(weight, "group", GroupConfig(bits=bits, clip=clip)) for clip in (True, False)
        )
        assert clipped < 0.97 * nearest


def test_feedback_codecs_lose_less_of_what_the_statistics_care_for():
    weight, cares = weights(), statistics()
    for codec, config in (("vector", VectorConfig()), ("grid", GridConfig(bits=3.0))):
        with_them, without = (encode(weight, codec, config, each) for each in (cares, None))
        assert with_them.num_bytes < 1.1 * without.num_bytes
        assert cares.loss_increase(weight - decode(with_them)) < 0.6 * cares.loss_increase(weight - decode(without))


def test_a_grid_takes_the_bits_asked_for():
    weight = weights((128, 256))
    for bits in (2.0, 3.0, 4.0):
        encoded = encode(weight, "grid", GridConfig(bits=bits))
        assert 8 * encoded.num_bytes / weight.numel() == pytest.approx(bits, abs=0.2)
        assert abs(encoded.num_bytes - sum(getattr(p, "stream", p).nbytes for p in encoded.payload.values())) < 40


def test_seeds_are_rescored_after_their_coefficients_were_quantised(monkeypatch):
    weight = weights((32, 64))
    rescored = relative_error(weight, "seedlm", SEED)
    monkeypatch.setattr("esper.forge.compression.codecs.seedlm._CANDIDATES", 1)
    assert rescored < 0.98 * relative_error(weight, "seedlm", SEED)


def test_a_register_goes_through_all_its_states():
    for bits in (8, 11, 12):
        bases = register_bases(1, 1, bits).flatten()
        assert len(bases.unique()) == 2**bits - 1 and bases.abs().max() < 1
        assert abs(float(bases.mean())) < 0.01
    numbers = register_bases(4, 2, 12).reshape(-1, 8)
    assert (torch.corrcoef(numbers.T) - torch.eye(8)).abs().max() < 0.1


def test_a_trajectory_fills_its_cube():
    for dim, points in ((1, 64), (2, 256), (3, 256)):
        path = trajectory(dim, points)
        assert path.abs().max() < 1 and len(path.unique(dim=0)) == points
        places = torch.rand(500, dim, generator=torch.Generator().manual_seed(0)) * 2 - 1
        nearest = torch.cdist(places, path).amin(1)
        assert nearest.mean() < 1.1 * points ** (-1 / dim)


DECODE = """
import sys, torch
from esper.checkpoint.tensors import decode_tensors
from esper.forge.compression.container import decompress
from pathlib import Path
import hashlib
torch.set_num_threads(int(sys.argv[2]))
packed = decode_tensors(Path(sys.argv[1]).read_bytes(), {}, "file")["compressed"]
_, tensors = decompress(packed)
digest = hashlib.sha256()
for name in sorted(tensors):
    digest.update(name.encode() + tensors[name].numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_decoding_is_the_same_in_every_process_and_at_every_number_of_threads(tmp_path):
    from esper.checkpoint.tensors import encode_tensors
    from esper.files import write_atomic

    weight = weights((200, 200))  # large enough for threads to share
    settings = [("seedlm", replace(SEED, seed_bits=8)) if name == "seedlm" else (name, c) for name, c in MATRICES]
    packed = pack({name: encode(weight, name, config, statistics(200, 200)) for name, config in settings})
    write_atomic(tmp_path / "file", *encode_tensors({"compressed": packed})[0])
    digests = {
        subprocess.run(
            [sys.executable, "-c", DECODE, str(tmp_path / "file"), threads],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "3")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(("codec", "config"), [*MATRICES, ("plain", PlainConfig())])
def test_malformed_payloads_are_refused_in_a_line(codec, config):
    encoded = encode(weights(), codec, config)
    for key in encoded.payload:
        for broken in (None, torch.zeros(3, dtype=torch.int64), torch.full((1,), float("nan"))):
            others = {name: part for name, part in encoded.payload.items() if name != key}
            payload = others if broken is None else others | {key: broken}
            with pytest.raises(CheckpointError, match=f"part '{key}'") as refused:
                decode(replace(encoded, payload=payload))
            assert "\n" not in str(refused.value)
    with pytest.raises(CheckpointError):
        decode(replace(encoded, shape=(48, 81)))
    with pytest.raises(CheckpointError, match="more than is read"):
        decode(replace(encoded, shape=(1 << 20, 1 << 20)))


def test_codecs_and_settings_that_there_are_not_are_refused():
    encoded = encode(weights(), "group", GroupConfig())
    with pytest.raises(CheckpointError, match="no codec 'os"):
        decode(replace(encoded, codec="os.system"))
    for config in ({"bits": 99}, {"bits": "4"}, {"unknown": 1}, {"group_size": 0}):
        with pytest.raises(CheckpointError, match="codec 'group'"):
            decode(replace(encoded, config=config))


def test_every_family_is_of_registered_codecs():
    for settings in FAMILIES.values():
        for codec, config in settings:
            assert isinstance(config, CODECS[codec])
