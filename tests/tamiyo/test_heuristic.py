import json

import pytest

from esper.errors import ConfigError
from esper.leyline import WAIT, Operation, SeedStage
from esper.leyline.blueprints import blueprint_names
from esper.simic.curriculum import BlueprintCurriculum
from esper.tamiyo import HeuristicPolicyConfig, HeuristicTamiyo

FOSSIL = SeedStage.FOSSILIZED


@pytest.fixture
def full(seed):
    """Slots in which nothing is left to do."""
    return {"early": seed(FOSSIL), "mid": seed(FOSSIL), "late": seed(FOSSIL)}


@pytest.fixture
def build(catalogue):
    return lambda **values: HeuristicTamiyo(catalogue, HeuristicPolicyConfig(**values))


def one(controller, report):
    (action,) = controller.act([report])
    return action


# planting


def test_plants_the_preferred_seed_early_one_slot_an_epoch(build, report, seed):
    controller = build()
    assert one(controller, report(0)) == WAIT
    action = one(controller, report(1))
    assert (action.operation, action.slot, action.blueprint, action.blend) == (
        Operation.GERMINATE,
        "early",
        "conv_enhance",
        "sigmoid",
    )
    assert action.reason
    training = seed(SeedStage.TRAINING)
    assert one(controller, report(2, early=training)).slot == "mid"
    assert one(controller, report(3, early=training, mid=training)).slot == "late"


def test_first_planting_and_blend_are_configured(build, report):
    controller = build(first_plant_epoch=6, blend="gated")
    assert one(controller, report(4)) == WAIT
    assert one(controller, report(5)).blend == "gated"


def test_does_not_plant_when_too_few_epochs_remain_for_a_life(build, report):
    config = HeuristicPolicyConfig()
    assert config.life_epochs == 8
    assert one(build(), report(17, max_epochs=25)).operation is Operation.GERMINATE
    assert one(build(), report(18, max_epochs=25)) == WAIT


def test_keeps_to_the_limit_of_live_seeds(build, report, seed):
    blending = seed(SeedStage.BLENDING)
    assert one(build(max_live_seeds=2), report(3, early=blending, mid=blending)) == WAIT
    assert one(build(max_live_seeds=2), report(3, early=blending, mid=seed(FOSSIL))).slot == "late"


def test_plants_only_what_the_host_s_catalogue_has(report):
    language = [("norm", 128), ("lora", 900), ("mlp", 33_000)]
    controller = HeuristicTamiyo(language)
    names = {one(controller, report(epoch)).blueprint for epoch in range(1, 9)}  # each refused, so it rotates
    assert names == {"norm", "lora", "mlp"}
    assert one(HeuristicTamiyo(language), report(1)).blueprint == "mlp"
    assert one(HeuristicTamiyo(language[:2]), report(1)).blueprint == "norm"  # the lightest: nothing preferred is there
    assert one(HeuristicTamiyo([]), report(1)) == WAIT


@pytest.mark.parametrize(
    ("topology", "first"),
    [("cnn", "conv_enhance"), ("cnn1d", "conv_enhance"), ("transformer", "mlp"), ("mlp", "hidden")],
)
def test_every_kind_of_host_gets_layers_that_can_learn_something(report, topology, first):
    offered = [(name, 1) for name in blueprint_names()[topology]]
    assert one(HeuristicTamiyo(offered), report(1)).blueprint == first


def test_after_a_cull_another_blueprint_takes_the_slot(build, report, seed, full):
    controller = build()
    planted = one(controller, report(1, **{**full, "mid": seed()}))
    assert planted.blueprint == "conv_enhance"
    one(controller, report(2, **{**full, "mid": seed(SeedStage.TRAINING, blueprint_id="conv_enhance")}))
    for epoch, stage in ((3, SeedStage.CULLED), (4, SeedStage.EMBARGOED), (5, SeedStage.RESETTING)):
        assert one(controller, report(epoch, accuracy=50.0 + epoch, **{**full, "mid": seed(stage)})) == WAIT
    action = one(controller, report(6, accuracy=60.0, **{**full, "mid": seed()}))
    assert action.blueprint == "conv_light" and "conv_enhance" in action.reason


def test_a_seed_lost_before_it_was_ever_seen_counts_as_failed(build, report, full, seed):
    controller = build()
    one(controller, report(1, **{**full, "mid": seed()}))
    one(controller, report(2, **{**full, "mid": seed(SeedStage.EMBARGOED)}))
    assert one(controller, report(3, accuracy=60.0, **{**full, "mid": seed()})).blueprint == "conv_light"


def test_on_a_plateau_the_largest_of_what_is_left_follows_a_failure(build, report, seed, full):
    controller = build(plateau_patience_epochs=2)
    one(controller, report(1, **{**full, "mid": seed(SeedStage.TRAINING)}))
    for epoch in (2, 3):
        one(controller, report(epoch, **{**full, "mid": seed(SeedStage.EMBARGOED)}))
    action = one(controller, report(4, **{**full, "mid": seed()}))
    assert action.blueprint == "conv_heavy" and "no progress" in action.reason


def test_a_fossil_is_no_failure_and_slots_fail_on_their_own(build, report, seed, full):
    controller = build()
    one(controller, report(1, **{**full, "early": seed(SeedStage.TRAINING), "mid": seed(SeedStage.PROBATIONARY)}))
    one(controller, report(2, **{**full, "early": seed(SeedStage.EMBARGOED)}))
    memory = controller.state_dict()["members"]["0"]["slots"]
    assert memory["early"]["failures"] == {"conv_light": 1}
    assert memory["mid"]["failures"] == {} and memory["late"]["failures"] == {}


# blending


def test_advances_a_trained_seed_with_healthy_gradients(build, report, seed, full):
    def ask(**values):
        return one(build(), report(5, **{**full, "mid": seed(SeedStage.TRAINING, **values)}))

    action = ask(epochs_in_stage=3)
    assert (action.operation, action.slot) == (Operation.ADVANCE, "mid") and "3 epochs" in action.reason
    assert ask(epochs_in_stage=2) == WAIT
    assert ask(epochs_in_stage=3, gradient_health=0.2) == WAIT
    assert ask(epochs_in_stage=3, gradient_norm=0.0) == WAIT
    assert ask(epochs_in_stage=3, gradient_norm=float("nan")) == WAIT


def test_does_not_start_a_blend_that_cannot_end(build, report, seed, full):
    trained = {**full, "mid": seed(SeedStage.TRAINING, epochs_in_stage=4)}
    assert one(build(blending_epochs=3), report(22, **trained)).operation is Operation.ADVANCE
    assert one(build(blending_epochs=3), report(23, **trained)) == WAIT


def test_gives_up_a_seed_that_stays_in_training(build, report, seed, full):
    parked = {**full, "mid": seed(SeedStage.TRAINING, epochs_in_stage=8, gradient_norm=0.0)}
    action = one(build(), report(12, **parked))
    assert (action.operation, action.slot) == (Operation.CULL, "mid") and "8 epochs" in action.reason


def test_a_refused_advance_lets_planting_go_first_and_is_asked_again(build, report, seed):
    controller = build(max_training_epochs=20)

    def at(epoch, late):
        return report(epoch, early=seed(SeedStage.TRAINING, epochs_in_stage=epoch), mid=seed(FOSSIL), late=seed(late))

    assert one(controller, at(3, SeedStage.DORMANT)).operation is Operation.ADVANCE
    assert one(controller, at(4, SeedStage.DORMANT)).operation is Operation.GERMINATE
    assert one(controller, at(5, SeedStage.TRAINING)).operation is Operation.ADVANCE


def test_refused_seeds_take_turns(build, report, seed):
    controller = build(max_training_epochs=20)
    asked = [
        one(
            controller,
            report(
                epoch,
                early=seed(SeedStage.TRAINING, epochs_in_stage=epoch),
                mid=seed(FOSSIL),
                late=seed(SeedStage.TRAINING, epochs_in_stage=epoch),
            ),
        ).slot
        for epoch in range(3, 7)
    ]
    assert asked == ["early", "late", "early", "late"]


# probation


def probation(seed, full, contribution, loss=None, epochs=0, stage=SeedStage.PROBATIONARY, alpha=1.0):
    state = seed(stage, alpha=alpha, contribution=contribution, contribution_loss=loss, epochs_in_stage=epochs)
    return {**full, "mid": state}


def course(controller, report, seed, full, contributions, losses=None, **values):
    """The actions over epochs of one stage with these contributions."""
    losses = losses or [None] * len(contributions)
    return [
        one(controller, report(10 + epoch, **probation(seed, full, points, loss, epoch, **values)))
        for epoch, (points, loss) in enumerate(zip(contributions, losses, strict=True))
    ]


def test_fossilises_after_good_epochs_in_a_row(build, report, seed, full):
    actions = course(build(), report, seed, full, [3.0, -1.0, 2.0, 4.0])
    assert actions[:3] == [WAIT] * 3
    assert actions[3].operation is Operation.ADVANCE and "+4.0 points" in actions[3].reason


def test_loss_may_veto_a_gain_in_accuracy_and_excuse_a_fall(build, report, seed, full):
    assert course(build(), report, seed, full, [3.0] * 4, [-0.1] * 4) == [WAIT] * 4
    assert course(build(), report, seed, full, [-0.5] * 4, [0.1] * 4) == [WAIT] * 4


def test_min_contribution_raises_the_bar(build, report, seed, full):
    assert course(build(min_contribution=2.0), report, seed, full, [1.5] * 4) == [WAIT] * 4
    assert course(build(min_contribution=1.0), report, seed, full, [1.5] * 4)[1].operation is Operation.ADVANCE


@pytest.mark.parametrize("stage", [SeedStage.PROBATIONARY, SeedStage.BLENDING])
def test_culls_what_keeps_harming(build, report, seed, full, stage):
    actions = course(build(), report, seed, full, [-2.0, -1.0, -3.0], stage=stage, alpha=0.8)
    assert actions[:2] == [WAIT] * 2
    assert actions[2].operation is Operation.CULL and actions[2].slot == "mid" and "-3.0" in actions[2].reason


def test_a_good_epoch_in_between_saves_it(build, report, seed, full):
    assert course(build(), report, seed, full, [-2.0, -1.0, 1.0, -3.0])[-1] == WAIT


def test_a_new_stage_is_judged_anew(build, report, seed, full):
    controller = build()
    course(controller, report, seed, full, [-2.0, -2.0], stage=SeedStage.BLENDING, alpha=0.9)
    actions = course(controller, report, seed, full, [-2.0, -2.0, -2.0])
    assert actions[:2] == [WAIT] * 2 and actions[2].operation is Operation.CULL


def test_an_early_blend_is_not_judged(build, report, seed, full):
    actions = course(build(), report, seed, full, [-5.0] * 6, stage=SeedStage.BLENDING, alpha=0.2)
    assert actions == [WAIT] * 6


def test_a_fossil_or_a_seed_on_its_way_out_is_left_alone(build, report, seed, full):
    for stage in (SeedStage.FOSSILIZED, SeedStage.CULLED):
        assert course(build(), report, seed, full, [-5.0] * 6, stage=stage) == [WAIT] * 6


def test_culls_a_seed_parked_on_probation(build, report, seed, full):
    actions = course(build(), report, seed, full, [1.0, -1.0] * 5)
    assert [action.operation for action in actions[:9]] == [Operation.WAIT] * 8 + [Operation.CULL]


def test_a_useful_seed_whose_gate_refuses_stays(build, report, seed, full):
    actions = course(build(), report, seed, full, [5.0] * 12)
    assert {action.operation for action in actions[1:]} == {Operation.ADVANCE}


def test_an_unknown_contribution_decides_nothing(build, report, seed, full):
    assert course(build(), report, seed, full, [None] * 12) == [WAIT] * 12


# urgency, members, state


@pytest.mark.parametrize(
    "stage", [SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY]
)
def test_an_unhealthy_seed_goes_before_everything_else(build, report, seed, stage):
    action = one(
        build(),
        report(4, early=seed(), mid=seed(SeedStage.TRAINING, epochs_in_stage=3), late=seed(stage, is_healthy=False)),
    )
    assert (action.operation, action.slot) == (Operation.CULL, "late")


def test_promoting_goes_before_planting(build, report, seed):
    action = one(build(), report(4, early=seed(), mid=seed(SeedStage.TRAINING, epochs_in_stage=3)))
    assert action.operation is Operation.ADVANCE


def test_members_are_judged_apart_and_twins_and_the_retired_wait(build, report, seed, full):
    controller = build()
    trained = {**full, "mid": seed(SeedStage.TRAINING, epochs_in_stage=3)}
    actions = controller.act(
        [report(4, 0), report(4, 1, is_twin=True), report(4, 2, **trained), report(4, 3, retired=True, **trained)]
    )
    assert [action.operation for action in actions] == [
        Operation.GERMINATE,
        Operation.WAIT,
        Operation.ADVANCE,
        Operation.WAIT,
    ]
    assert actions[1] == actions[3] == WAIT


def test_continues_exactly_from_its_state(build, report, seed, full):
    reports = [
        [report(10 + epoch, member, accuracy=50.0 + epoch, **probation(seed, full, points, epochs=epoch))]
        for member, contributions in enumerate(([-1.0, -2.0, -1.0, 4.0], [1.0, 2.0, 1.0, 1.0]))
        for epoch, points in enumerate(contributions)
    ]
    reports += [
        [report(14 + epoch, 0, **{**full, "mid": seed(stage)})]
        for epoch, stage in enumerate((SeedStage.EMBARGOED, SeedStage.RESETTING, SeedStage.DORMANT))
    ]
    uninterrupted = build()
    expected = [uninterrupted.act(step) for step in reports]
    assert len({action.operation for (action,) in expected}) == 4
    for cut in range(len(reports)):
        first, second = build(), build()
        for step in reports[:cut]:
            first.act(step)
        second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
        assert [second.act(step) for step in reports[cut:]] == expected[cut:]
        assert second.state_dict() == uninterrupted.state_dict()


def test_a_new_episode_is_seen_afresh(build, report, seed, full):
    """The member's host is another one: what failed in the last episode, and how far it had come, is of no account."""
    controller, fresh = build(), build()
    one(controller, report(5, accuracy=90.0, **{**full, "mid": seed(SeedStage.TRAINING)}))
    one(controller, report(6, accuracy=90.0, **{**full, "mid": seed(SeedStage.EMBARGOED)}))
    for each in (controller, fresh):
        one(each, report(0))
    assert controller.state_dict() == fresh.state_dict()


# the curriculum


@pytest.fixture
def chooser(catalogue):
    return BlueprintCurriculum(*zip(*catalogue, strict=True), exploration_weight=0.3, complexity_penalty=0.1)


@pytest.fixture
def learning(catalogue, chooser):
    """A heuristic with a curriculum."""
    return HeuristicTamiyo(catalogue, HeuristicPolicyConfig(curriculum=True, first_plant_epoch=2), chooser)


def planted(action):
    assert action.operation is Operation.GERMINATE
    return action.blueprint


def life(controller, report, full, states, member=0, start=2):
    """Live through these states of the middle slot, one an epoch."""
    for epoch, state in enumerate(states, start):
        one(controller, report(epoch, member, **{**full, "mid": state}))


def test_members_that_plant_at_the_same_time_try_different_things(learning, report, catalogue):
    names = [planted(action) for action in learning.act([report(1, member) for member in range(12)])]
    assert names[:6] == names[6:] == [name for name, _ in catalogue]  # none is known to be better: simple ones first


def test_a_fossil_earns_its_mean_contribution_on_probation(learning, chooser, report, seed, full):
    assert planted(one(learning, report(1, **{**full, "mid": seed()}))) == "norm"
    norm = {"blueprint_id": "norm"}
    probation = [seed(SeedStage.PROBATIONARY, alpha=1.0, contribution=points, **norm) for points in (10.0, 30.0)]
    blending = seed(SeedStage.BLENDING, alpha=0.9, contribution=-40.0, **norm)
    life(learning, report, full, [seed(SeedStage.TRAINING, **norm), blending, *probation])
    assert chooser.get_stats("norm")["trials"] == 0
    life(learning, report, full, [seed(FOSSIL, **norm)] * 3, start=6)
    assert chooser.get_stats("norm") == {"trials": 1, "successes": 1, "mean_reward": pytest.approx(0.4)}


def test_a_fossil_set_back_to_probation_is_counted_once(learning, chooser, report, seed, full):
    one(learning, report(1, **{**full, "mid": seed()}))
    probation = seed(SeedStage.PROBATIONARY, alpha=1.0, contribution=50.0, blueprint_id="norm")
    fossil = seed(FOSSIL, blueprint_id="norm")
    life(learning, report, full, [probation, fossil, probation, fossil])
    assert chooser.get_stats("norm")["trials"] == 1


@pytest.mark.parametrize("lost", [SeedStage.CULLED, SeedStage.EMBARGOED, SeedStage.DORMANT])
def test_a_seed_that_is_lost_is_a_failure_without_reward(learning, chooser, report, seed, full, lost):
    one(learning, report(1, **{**full, "mid": seed()}))
    probation = seed(SeedStage.PROBATIONARY, alpha=1.0, contribution=30.0, blueprint_id="norm")
    life(learning, report, full, [probation, seed(lost)])
    assert chooser.get_stats("norm") == {"trials": 1, "successes": 0, "mean_reward": 0.0}


def test_what_one_member_finds_out_serves_the_others_in_the_same_epoch(learning, report, seed, full):
    """Each of six members tries another blueprint; what came of the last one's is known to the first."""
    names = [planted(a) for a in learning.act([report(1, m, **{**full, "mid": seed()}) for m in range(6)])]
    worth = {name: 50.0 if name == names[-1] else 5.0 for name in names}

    def after(epoch, stage, early):
        mids = [seed(stage, alpha=1.0, contribution=worth[name], blueprint_id=name) for name in names]
        return [report(epoch, m, early=seed(early), mid=mid, late=seed(FOSSIL)) for m, mid in enumerate(mids)]

    learning.act(after(2, SeedStage.PROBATIONARY, early=FOSSIL))
    action = learning.act(after(3, FOSSIL, early=SeedStage.DORMANT))[0]
    assert planted(action) == names[-1] and "curriculum" in action.reason


def test_the_curriculum_does_not_repeat_what_failed_in_the_slot(learning, chooser, report, seed, full):
    chooser.record_outcome("norm", success=True, reward=1.0)
    for name in ("attention", "depthwise", "conv_light", "conv_enhance", "conv_heavy"):
        chooser.record_outcome(name, success=False, reward=0.0)
    assert planted(one(learning, report(1, **{**full, "mid": seed()}))) == "norm"
    one(learning, report(2, **{**full, "mid": seed(SeedStage.EMBARGOED)}))
    action = one(learning, report(3, **{**full, "mid": seed()}))
    assert planted(action) != "norm" and "after norm failed here" in action.reason


@pytest.mark.parametrize("end", [{"epoch": 0}, {"epoch": 9, "retired": True}])
def test_an_episode_that_ends_leaves_no_trial_open(learning, chooser, report, seed, full, end):
    before = chooser.state_dict()
    one(learning, report(1, **{**full, "mid": seed()}))
    life(learning, report, full, [seed(SeedStage.TRAINING, blueprint_id="norm")])
    assert chooser.state_dict() != before
    one(learning, report(**end))
    assert chooser.state_dict() == before


def test_a_curriculum_continues_exactly_from_its_state(learning, catalogue, chooser, report, seed, full):
    def rest(controller):
        life(controller, report, full, [seed(FOSSIL, blueprint_id="norm"), seed(FOSSIL, blueprint_id="norm")], start=3)
        return controller.act([report(4, member) for member in range(1, 9)])

    chooser.record_outcome("conv_heavy", success=True, reward=1.0)
    one(learning, report(1, **{**full, "mid": seed()}))
    life(learning, report, full, [seed(SeedStage.PROBATIONARY, alpha=1.0, contribution=20.0, blueprint_id="norm")])
    state = json.loads(json.dumps(learning.state_dict(), allow_nan=False))
    expected = rest(learning)
    again = HeuristicTamiyo(catalogue, learning.config, BlueprintCurriculum(*zip(*catalogue, strict=True), 0.3, 0.1))
    again.load_state_dict(state)
    assert rest(again) == expected and again.state_dict() == learning.state_dict()
    assert len({action.blueprint for action in expected}) > 1


def test_a_curriculum_is_asked_only_where_it_is_wanted(catalogue, chooser, report):
    with pytest.raises(ConfigError, match=r"policy\.curriculum=true.*policy\.curriculum=false"):
        HeuristicTamiyo(catalogue, HeuristicPolicyConfig(curriculum=True))
    before = chooser.state_dict()
    action = one(HeuristicTamiyo(catalogue, HeuristicPolicyConfig(), chooser), report(1))
    assert planted(action) == HeuristicPolicyConfig().preferred_blueprints[0] and chooser.state_dict() == before


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"blend": "sigmoit"}, "policy.blend=sigmoit"),
        ({"first_plant_epoch": 0}, "policy.first_plant_epoch"),
        ({"min_gradient_health": 1.5}, "policy.min_gradient_health"),
        ({"min_contribution": float("nan")}, "policy.min_contribution"),
        ({"max_training_epochs": 3}, "policy.max_training_epochs=3.*policy.min_training_epochs=3"),
        ({"max_probation_epochs": 1}, "policy.max_probation_epochs"),
        ({"exploration_weight": -1.0}, "policy.exploration_weight"),
        ({"complexity_penalty": float("inf")}, "policy.complexity_penalty"),
    ],
)
def test_a_wrong_value_is_named(values, key):
    with pytest.raises(ConfigError, match=key):
        HeuristicPolicyConfig(**values)


def test_a_whole_life_under_obliging_gates(build, report, seed):
    """Every slot is planted, blended and made a fossil at the first opportunity, one step an epoch."""
    controller, log = build(), []
    slots = {name: seed() for name in ("early", "mid", "late")}
    for epoch in range(25):
        action = one(controller, report(epoch, **slots))
        if action != WAIT:
            log.append((epoch + 1, action.operation.name, action.slot))
        for name, state in slots.items():
            slots[name] = _next(seed, state, action if action.slot == name else WAIT)
    assert log == [
        (2, "GERMINATE", "early"),
        (3, "GERMINATE", "mid"),
        (4, "GERMINATE", "late"),
        (5, "ADVANCE", "early"),
        (6, "ADVANCE", "mid"),
        (7, "ADVANCE", "late"),
        (9, "ADVANCE", "early"),
        (10, "ADVANCE", "mid"),
        (11, "ADVANCE", "late"),
    ]
    assert all(state.stage is FOSSIL for state in slots.values())


def _next(seed, state, action):
    """The slot one epoch later; a blend takes three epochs, and every seed helps."""
    epochs = state.epochs_in_stage + 1
    if action.operation is Operation.GERMINATE:
        return seed(SeedStage.TRAINING, epochs_in_stage=1)
    if action.operation is Operation.ADVANCE and state.stage is SeedStage.TRAINING:
        return seed(SeedStage.BLENDING, alpha=0.1, epochs_in_stage=1)
    if action.operation is Operation.ADVANCE:
        return seed(FOSSIL, alpha=1.0)
    if state.stage is SeedStage.BLENDING and epochs == 3:
        return seed(SeedStage.PROBATIONARY, alpha=1.0, contribution=5.0)
    if state.stage is SeedStage.DORMANT:
        return state
    return seed(state.stage, alpha=state.alpha, contribution=state.contribution, epochs_in_stage=epochs)
