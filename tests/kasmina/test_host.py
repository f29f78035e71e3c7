import pytest
import torch

from esper.errors import ConfigError
from esper.kasmina.host import CNNHost, MorphogeneticModel, TransformerHost, resolve_slots
from esper.kasmina.slot import SeedSlot, SlotConfig
from esper.leyline import SeedStage, TaskConfig


def parameters_of(host: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in host.parameters())


@pytest.mark.parametrize("size", [(32, 32), (17, 9), (4, 4)])
def test_a_host_built_without_arguments_takes_colour_images_of_any_size(size):
    host = CNNHost()
    assert host(torch.zeros(2, 3, *size)).shape == (2, 10)
    assert host.injection_points == {"block1": 32, "block2": 64, "block3": 128}
    assert host._slot_keys == ("block1", "block2", "block3")


def test_the_default_digits_host_has_about_a_thousand_parameters():
    assert parameters_of(CNNHost(in_channels=1, channels=[4, 8, 8])) == 1030


def test_a_hosts_weights_follow_its_generator_and_leave_the_global_stream_alone():
    before = torch.get_rng_state()
    hosts = [CNNHost(channels=[4, 4, 4], generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    heads = [host.head.weight for host in hosts]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_host_traces():
    host, x = CNNHost(channels=[4, 4, 4]).eval(), torch.ones(2, 3, 8, 8)
    assert torch.equal(torch.fx.symbolic_trace(host)(x), host(x))


def test_pools_are_chosen_by_block():
    host = CNNHost(channels=[2, 2, 2], pool=[False, True, True])
    sizes = []
    for block in host.blocks:
        block.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    host(torch.zeros(1, 3, 16, 16))
    assert sizes == [16, 8, 4]


@pytest.mark.parametrize("bad", [{"channels": [8, 8]}, {"pool": [True]}, {"n_blocks": 0}], ids=str)
def test_a_host_whose_lists_do_not_match_its_blocks_says_so(bad):
    with pytest.raises(ConfigError, match=f"host.{next(iter(bad))}="):
        CNNHost(**bad)


@pytest.mark.parametrize(
    ("n_blocks", "names", "positions"),
    [
        (3, ["early", "mid", "late"], ["block1", "block2", "block3"]),
        (5, ["early", "mid", "late"], ["block1", "block3", "block5"]),
        (2, ["early", "late"], ["block1", "block2"]),
        (1, ["late"], ["block1"]),
        (4, ["block2", "late"], ["block2", "block4"]),
    ],
)
def test_slot_names_go_by_depth_or_by_position(n_blocks, names, positions):
    resolved = resolve_slots(names, [f"block{i}" for i in range(1, n_blocks + 1)])
    assert list(resolved) == names
    assert list(resolved.values()) == positions


def test_two_names_on_one_position_and_unknown_names_are_errors_that_say_so():
    with pytest.raises(ConfigError, match="'mid' and 'late' both fall on block2"):
        MorphogeneticModel(CNNHost(n_blocks=2), slots=["early", "mid", "late"])
    with pytest.raises(ConfigError, match=r"no position 'middle'; it has early, mid, .*; did you mean 'mid'\?"):
        MorphogeneticModel(CNNHost(), slots=["middle"])


def test_a_task_of_another_topology_is_refused():
    with pytest.raises(ConfigError, match="'transformer' host and CNNHost is 'cnn'"):
        MorphogeneticModel(CNNHost(), task_config=TaskConfig(topology="transformer"))
    with pytest.raises(ConfigError, match="'cnn' host and TransformerHost is 'transformer'"):
        MorphogeneticModel(TransformerHost(5, 8, 2, 3, 6), task_config=TaskConfig(topology="cnn"))


def test_a_model_holds_a_slot_for_every_name_and_knows_its_seeds():
    model = MorphogeneticModel(
        host=CNNHost(),
        device="cpu",
        slots=["early", "mid", "late"],
        task_config=TaskConfig(topology="cnn", blending_steps=7),
    )
    assert {name: slot.channels for name, slot in model.slots.items()} == {"early": 32, "mid": 64, "late": 128}
    assert (model.has_active_seed, model.seed_state, model.get_seed_parameters()) == (False, None, [])
    state = model.germinate_seed(blueprint_id="norm", seed_id="a", slot="mid", blend_algorithm_id="gated")
    assert model.has_active_seed
    assert model.seed_state is state is model.slots["mid"].state
    assert len(model.get_seed_parameters()) == 4  # scale, shift, and the gate's two
    model.slots["mid"].start_blending(state.ramp_steps)
    assert model.slots["mid"].alpha_schedule.total_steps == 7
    with pytest.raises(ConfigError, match="no slot 'middle'"):
        model.germinate_seed("norm", "b", "middle")


def test_the_seed_state_is_an_active_seeds_before_a_fossils(make_model):
    model = make_model()
    fossil = model.germinate_seed("norm", "a", "early")
    fossil.stage = SeedStage.FOSSILIZED
    assert not model.has_active_seed
    assert model.seed_state is fossil
    active = model.germinate_seed("norm", "b", "late")
    assert model.has_active_seed
    assert model.seed_state is active


def test_a_culled_seed_is_no_longer_counted(make_model):
    model = make_model(SlotConfig(blending_steps=2, cull_steps=2))
    bare = model.parameter_count()
    model.germinate_seed("conv_light", "s", "mid")
    assert model.parameter_count() == bare + 9 * 8 * 8 + 2 * 8
    slot = model.slots["mid"]
    slot.start_blending(total_steps=2)
    slot.step()
    slot.cull()
    assert slot.seed is not None
    assert model.parameter_count() == bare


def test_a_double_precision_host_grows_double_precision_seeds():
    model = MorphogeneticModel(CNNHost(in_channels=1, channels=[2, 2, 2]).double())
    model.germinate_seed("bottleneck", "s", "late", "gated")
    assert {parameter.dtype for parameter in model.get_seed_parameters()} == {torch.float64}


def test_flops_follow_the_topology(make_model):
    model = make_model()
    bare = model.flops_per_sample((1, 8, 8))
    model.germinate_seed("conv_light", "s", "mid")
    assert model.flops_per_sample((1, 8, 8)) == bare  # planted, and not computing yet
    model.slots["mid"].state.transition(SeedStage.TRAINING)
    pixels = 2 * 2  # after two pools
    assert model.flops_per_sample((1, 8, 8)) == bare + pixels * 8 * (2 + 1 + 2 * 9 * 8)
    model.slots["mid"].cull()
    assert model.flops_per_sample((1, 8, 8)) == bare


def test_flops_are_counted_once_for_each_topology(make_model, monkeypatch):
    counts = []
    monkeypatch.setattr("esper.kasmina.host.count_flops", lambda model, inputs: counts.append(inputs.shape) or 1)
    model = make_model()
    for _ in range(3):
        model.flops_per_sample((1, 8, 8))
    assert len(counts) == 1
    model.germinate_seed("norm", "s", "mid")
    model.slots["mid"].state.transition(SeedStage.TRAINING)
    model.flops_per_sample([1, 8, 8])
    model.flops_per_sample((1, 16, 16))
    assert counts[1:] == [(1, 1, 8, 8), (1, 1, 16, 16)]


def test_a_seed_slot_takes_its_place_in_the_host(make_model):
    model = make_model()
    assert all(isinstance(model.host.slots[key], SeedSlot) for key in model.host._slot_keys)
