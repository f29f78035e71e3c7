"""Half-baking: the scale is searched for, because half the weights are not half the effect."""

import copy

import pytest
import torch

from esper.forge.baking.divergence import pool_divergence
from esper.forge.baking.scaling import bisect, scale_to
from esper.forge.bitnet.quantizer import quantize_layers
from tests.forge.baking.test_divergence import PAD, pool
from tests.forge.models import network
from tests.forge.test_lora import changed


@pytest.mark.parametrize("power", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
def test_bisection_hits_its_target(power, target):
    found = bisect(lambda scale: 1 - scale**power, target, 1e-3)
    assert 1 - found**power == pytest.approx(target, abs=1e-3)


def test_what_stays_above_the_target_is_applied_whole():
    assert bisect(lambda scale: 1 - scale / 4, 0.5, 1e-3) == 1.0


def test_of_a_staircase_the_step_nearest_to_the_target_is_taken():
    steps = {0.3: 1.0, 0.7: 0.6, 1.01: 0.1}
    found = bisect(lambda scale: next(value for end, value in steps.items() if scale < end), 0.5, 1e-3)
    assert 0.3 <= found < 0.7


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_a_changes_scale_leaves_the_share_that_is_asked(ternary, share):
    base = quantize_layers(network()) if ternary else network()
    before = copy.deepcopy(base)
    lora = changed(base)
    wanted = changed(copy.deepcopy(base)).fold()  # the change as a whole leads there
    reached = scale_to(lora, lambda student: pool_divergence(student, wanted, pool(""), 0, PAD), share)
    assert reached == pytest.approx(share, abs=0.1 if ternary else 0.02)
    assert abs(lora.scale - (1 - share)) > 0.02
    found, most = (pool_divergence(student, wanted, pool(""), 0, PAD) for student in (lora, before))
    assert found == pytest.approx(reached * most)


def test_where_there_is_nothing_to_bake_nothing_is_applied():
    base, tokens = network(), torch.zeros(1, 4, dtype=torch.int64)
    lora = changed(base)
    assert scale_to(lora, lambda student: 0.0, 0.5) == 0.0
    assert lora.scale == 0.0
    assert torch.equal(lora(tokens), base(tokens))
