"""The routed network: what its router reads, that it never looks ahead, and that it writes on as it reads."""

import pytest
import torch

from esper.checkpoint import read_bundle
from esper.errors import CheckpointError
from esper.forge.bundles import load_language_model, save_language_model
from esper.forge.compression.bundle import save_compressed
from esper.forge.compression.compressor import compress_packed
from esper.forge.experts.bundle import FORMAT, routed_tensors
from esper.forge.experts.layers import dense_copy
from esper.forge.experts.routed import RoutedDecoder
from esper.forge.experts.router import PrefixRouter
from esper.forge.experts.singular_values import SingularValues
from esper.forge.sampling import sample
from esper.tasks.task import named_generator
from tests.forge.experts.conftest import LENGTH

STAGES = (4, 9)
MIXTURES = torch.tensor([[2, 0], [1, 3], [0, 0], [0, 2]], dtype=torch.uint8)  # the last: before the first stage


def parts(network):
    """Experts far from the base, and a router that deals random texts to all choices."""
    scaled = SingularValues(dense_copy(network))
    experts = torch.randn(2, len(scaled.values), generator=named_generator(0, "experts"))
    weight = torch.randn(3, 16, generator=named_generator(0, "router"))
    bias = -(weight @ network.features(tokens(64)[:, :6]).mean((0, 1)))
    return experts, MIXTURES, PrefixRouter(weight, bias), STAGES


def tokens(rows=6, length=LENGTH):
    return torch.randint(256, (rows, length), generator=named_generator(0, "tokens"))


@pytest.fixture(params=["plain", "ternary"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def base(folder):
    return load_language_model(folder)


@pytest.fixture
def routed(base):
    return RoutedDecoder(base.host, *parts(base.host)).eval().requires_grad_(False)


@pytest.fixture
def saved(folder, base, routed, tmp_path):
    tensors = routed_tensors(read_bundle(folder / "model").tensors, *parts(base.host))
    write(tmp_path / "model", routed, base, tensors)
    return tmp_path / "model"


def write(path, routed, base, tensors):
    given = {"phase": "experts", "seed": 0, "data_fingerprint": "f", "quantizer": base.card.quantizer}
    save_language_model(path, routed, base.tokenizer, format=FORMAT, tensors=tensors, **given)


@torch.no_grad()
def test_each_part_of_a_text_is_by_the_network_of_its_stage(base, routed):
    x = tokens()
    found = routed(x)
    features = base.host.features(x)
    numbers = set()
    for row in range(len(x)):
        opening = routed.network(routed.opening)(x)
        assert torch.allclose(found[row, :3], opening[row, :3], atol=1e-4)
        for stage, stop in zip(STAGES, (STAGES[1] - 1, LENGTH), strict=True):
            number = int(routed.choose(features[row : row + 1, :stage]))
            numbers.add(number)
            expected = routed.network(number)(x[row : row + 1])
            assert torch.allclose(found[row, stage - 1 : stop], expected[0, stage - 1 : stop], atol=1e-4)
    assert len(numbers) >= 2


@pytest.mark.sampled(4)
@torch.no_grad()
@pytest.mark.parametrize("place", [0, 2, 3, 8, 9, LENGTH - 1])
def test_a_changed_token_leaves_every_earlier_logit_bit_for_bit(routed, place):
    for row in tokens():
        x = row[None]
        changed = x.clone()
        changed[0, place] = (x[0, place] + 100) % 256
        before, after = routed(x), routed(changed)
        assert torch.equal(before[:, :place], after[:, :place])
        assert not torch.equal(before[:, place], after[:, place])


@torch.no_grad()
def test_what_follows_the_last_stage_does_not_change_the_choice(routed):
    x = tokens(64)
    changed = x.clone()
    changed[:, STAGES[-1] :] = 7
    features = [routed.base.features(each[:, : STAGES[-1]]) for each in (x, changed)]
    assert torch.equal(routed.choose(features[0]), routed.choose(features[1]))
    assert (routed(x)[:, : STAGES[-1]] - routed(changed)[:, : STAGES[-1]]).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("steps", [[LENGTH], [1] * LENGTH, [2, 3, 1, 8, LENGTH - 14], [4, 5, LENGTH - 9]])
def test_token_by_token_it_says_what_it_says_at_once(routed, steps):
    x = tokens()
    cache = routed.new_cache()
    found = torch.cat([routed.extend(part, cache) for part in x.split(steps, 1)], 1)
    assert (found - routed(x)).abs().max() < 2e-2  # activations of 8 bits tip over where sums round
    assert (found - routed(x)).abs().mean() < 1e-3


@torch.no_grad()
def test_texts_shorter_than_the_first_stage_are_the_openings(base, routed):
    x = tokens(length=STAGES[0] - 1)
    assert torch.equal(routed(x), routed.network(routed.opening)(x))
    assert not torch.allclose(routed(x), base.host(x), atol=1e-3)
    routed.numbers[-1] = -1
    assert torch.equal(routed(x), base.host(x))


def test_it_is_read_back_and_writes_text(saved, routed):
    model = load_language_model(saved)
    assert model.card.format == FORMAT
    assert (model(tokens()) - routed(tokens())).abs().max() < 1e-4
    written = model.generate("a prompt", max_new_tokens=12, temperature=0.0)
    assert written == model.generate("a prompt", max_new_tokens=12, temperature=0.0) and written
    prompts = [row.tolist() for row in tokens(3, 6)]
    together = sample(model.host, prompts, 8, model.tokenizer.eos_token_id)
    assert together == [sample(model.host, [prompt], 8, model.tokenizer.eos_token_id)[0] for prompt in prompts]


def test_it_is_compressed_and_read_back(saved, tmp_path):
    model = load_language_model(saved)
    packed = compress_packed(read_bundle(saved).tensors, FORMAT)
    path = tmp_path / "small"
    save_compressed(path, model, packed, phase="compression", seed=0, parents=[])
    found = load_language_model(path)
    assert torch.equal(found.host.mixtures, model.host.mixtures) and found.host.stages == STAGES
    assert (found.host.experts - model.host.experts).abs().max() < 0.05
    assert path.with_suffix(".safetensors").stat().st_size < saved.with_suffix(".safetensors").stat().st_size


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"router.weight": None}, "expected experts"),
        ({"experts": torch.zeros(2, 5)}, "experts is not"),
        ({"experts": torch.full((2, 192), torch.nan)}, "experts is not"),
        ({"mixtures": torch.zeros(3, 2)}, "mixtures is no matrix"),
        ({"router.bias": torch.zeros(4)}, "router.bias is not"),
        ({"stages": torch.tensor([9, 4], dtype=torch.uint8)}, "stages is no ascending list"),
        ({"stages": torch.tensor([1], dtype=torch.uint8)}, "stages is no ascending list"),
    ],
)
def test_malformed_ones_are_refused(folder, base, routed, tmp_path, change, told):
    tensors = routed_tensors(read_bundle(folder / "model").tensors, *parts(base.host)) | change
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=told):
        write(tmp_path / "model", routed, base, tensors)
    assert not list(tmp_path.iterdir())
