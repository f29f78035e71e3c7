"""Policies that were learned in runs decide in a loop of one's own, and see there what they saw in runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import esper
from esper.api.grower import Grower
from esper.errors import ConfigError
from esper.leyline import ActionLayout, GateConfig, SimicAction
from esper.simic.iql.config import IQLPolicyConfig
from esper.simic.iql.model import IQL
from esper.simic.ppo.agent import PPOAgent
from esper.simic.ppo.config import PPOPolicyConfig
from esper.simic.reinforce.agent import ReinforceAgent
from esper.simic.reinforce.config import ReinforcePolicyConfig
from esper.tamiyo.feature_table import observation_names
from tests.api.loops import X, Y, network, same, train

SLOTS = {"early": "stem", "mid": "body"}
PLANTED = ("conv_light", "norm")
OPEN = GateConfig(min_training_improvement=-100, min_gradient_ratio=0, min_contribution=-100)
LEARNED = {
    "ppo": (PPOAgent, PPOPolicyConfig(hidden=[8])),
    "lstm": (PPOAgent, PPOPolicyConfig(hidden=[8], network="lstm")),
    "reinforce": (ReinforceAgent, ReinforcePolicyConfig(hidden=[8])),
}


def scores(net: nn.Module) -> tuple[Tensor, Tensor]:
    logits = net(X[64:])
    return 100 * (logits.argmax(1) == Y[64:]).float().mean(), cross_entropy(logits, Y[64:])


def stored(kind: str, folder: Path) -> str:
    path = folder / f"{kind}.safetensors"
    if kind == "iql":
        IQL(IQLPolicyConfig().features, len(SimicAction), hidden=[8]).save(path)
        return str(path)
    learner, settings = LEARNED[kind]
    layout = ActionLayout(tuple(SLOTS), PLANTED, ("sigmoid",))
    learner.for_growth(observation_names(SLOTS, PLANTED), layout, settings, seed=3).save(path)
    return str(path)


def make(policy: str, **options: Any) -> Grower:
    net = network()
    given = {"slots": SLOTS, "epochs": 9, "gates": OPEN, "blending_epochs": 1} | options
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    return Grower(net, example=X[:1], policy=policy, optimizer=optimizer, **given)


def run(grower: Grower, epochs: range) -> None:
    for epoch in epochs:
        train(grower, epoch)
        grower.model.eval()
        with torch.no_grad():
            reached = scores(grower.model)
        grower.end_epoch(reached, scores, trained=(30.0 + epoch, 1.2))


@pytest.mark.parametrize("kind", [*LEARNED, "iql"])
def test_it_decides_and_resumes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    path = stored(kind, tmp_path)
    whole = make(path)
    run(whole, range(4))
    kept = whole.state_dict()
    run(whole, range(4, 7))
    again = make(path)
    again.load_state_dict(kept)
    run(again, range(4, 7))
    assert same(whole.state_dict(), again.state_dict())
    if kind != "iql":
        stored_network, own = LEARNED[kind][0].load(path).network, whole._growth.controller.learner.network
        assert same(stored_network.state_dict(), own.state_dict())
        assert whole.log
        assert {entry["blueprint"] for entry in whole.log} <= set(PLANTED)


def test_it_sees_losses_and_the_untrained_network_as_in_a_run(tmp_path: Path) -> None:
    grower = make(stored("ppo", tmp_path), deterministic=True)
    controller = grower._growth.controller
    assert controller.deterministic
    run(grower, range(1))
    names = controller.encoder.names
    (seen,) = controller.encoder.encode([grower.report])
    for flag in ("host_known", "val_known", "train_known", "gap_known"):
        assert seen[names.index(flag)] == 1, flag
    assert seen[names.index("progress")] == pytest.approx(1 / 9)
    assert seen[names.index("train_accuracy")] == pytest.approx(0.3)
    assert seen[names.index("train_loss")] == pytest.approx(torch.tensor(1.2).log1p().item() / 2)


@pytest.mark.slow
def test_the_policy_of_a_run_is_that_of_its_file(tmp_path: Path) -> None:
    words = "debug=smoke task.image_size=8 host.channels=[2,4] slots=early_late policy=ppo engine=sequential"
    more = "policy.hidden=[8] policy.updates=1 policy.members=2 engine.threads=1 engine.memory_format=contiguous"
    folder = f"hydra.run.dir={tmp_path}/run"
    trained = esper.launch(
        *words.split(), *more.split(), "blueprint.names=[norm,conv_light]", folder, "telemetry.console=off", epochs=2
    )
    grower = make(str(trained.folder), slots={"early": "stem", "late": "body"})
    run(grower, range(2))
    with pytest.raises(ConfigError, match="it learned with the slots early, late, and here are early, mid\n"):
        make(str(trained.folder))


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    ppo, iql = stored("ppo", tmp_path), stored("iql", tmp_path)
    (tmp_path / "none.safetensors").write_bytes(b"")
    for policy, options, message in (
        (
            ppo,
            {"slots": {"body": "body", "stem": "stem"}},
            "it learned with the slots early, mid, and here are stem, body",
        ),
        (ppo, {"epochs": None}, "has learned for courses that end"),
        (ppo, {"blueprint_names": ["norm"]}, "other features"),
        (ppo, {"determinstic": True}, "did you mean deterministic?"),
        (iql, {"act_bye": "value"}, "did you mean act_by?"),
        (iql, {"act_by": "luck"}, "policy.act_by=luck: expected"),
        (str(tmp_path / "none.safetensors"), {}, "policy=.*none.safetensors: "),
        (str(tmp_path), {}, "policy="),
        (str(tmp_path / "gone"), {}, "there is no such run directory or file"),
    ):
        with pytest.raises(ConfigError, match=message) as raised:
            make(policy, **options)
        assert len(str(raised.value).splitlines()) <= 2


def test_what_it_learned_to_see_has_to_be_told(tmp_path: Path) -> None:
    grower = make(stored("ppo", tmp_path))
    train(grower, 0)
    before = grower.state_dict()
    for score, trained, message in (
        (50.0, (40.0, 1.0), r"val_score=50.0: expected \(score, loss\)"),
        ((50.0, 1.0), None, r"trained=null: expected \(score, loss\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            grower.end_epoch(score, scores, trained)
        assert same(grower.state_dict(), before)
