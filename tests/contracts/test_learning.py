"""Contracts, section simic: IQL, PPO, and their comparison with the heuristic."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.errors import EsperError
from esper.simic.comparison import head_to_head_comparison, live_comparison, load_iql_model
from esper.simic.iql import IQL
from esper.simic.ppo import PPOAgent


def iql_file(folder: Path, state_dim: int) -> Path:
    """A file as `load_iql_model` reads it, made of an IQL's own networks."""
    iql = IQL(state_dim, 7)
    payload = {
        "state_dim": state_dim, "action_dim": 7, "gamma": 0.95, "tau": 0.8, "beta": 2.0,
        "q_network": iql.q_network.state_dict(), "v_network": iql.v_network.state_dict(),
    }  # fmt: skip
    path = folder / f"iql_{state_dim}.pt"
    torch.save(payload, path)
    return path


# ---- IQL


def test_iql_is_built_from_its_dimensions() -> None:
    iql = IQL(27, 7)
    assert (iql.gamma, iql.tau, iql.beta) == (0.99, 0.7, 3.0)
    assert iql.q_network.net[0].in_features == 27 and isinstance(iql.q_network.net[0], nn.Linear)
    assert iql.q_network(torch.zeros(5, 27)).shape == (5, 7)
    assert iql.v_network(torch.zeros(5, 27)).numel() == 5
    for device in ("cpu", torch.device("cpu")):
        other = IQL(state_dim=37, action_dim=4, gamma=0.9, tau=0.8, beta=1.0, device=device)
        assert (other.gamma, other.tau, other.beta) == (0.9, 0.8, 1.0)
        assert other.q_network.net[0].in_features == 37
        assert {parameter.device.type for parameter in other.q_network.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("state_dim", "use_telemetry", "kind"), [(27, False, "none"), (37, True, "seed"), (54, True, "full")]
)
def test_a_models_telemetry_is_told_by_its_width(
    tmp_path: Path, state_dim: int, use_telemetry: bool, kind: str, recwarn: pytest.WarningsRecorder
) -> None:
    path = iql_file(tmp_path, state_dim)
    for given in (path, str(path)):
        iql, used, found = load_iql_model(given, device="cpu")
        assert (used, found) == (use_telemetry, kind)
        assert iql.q_network.net[0].in_features == state_dim and (iql.gamma, iql.tau, iql.beta) == (0.95, 0.8, 2.0)
    saved = torch.load(path, weights_only=True)
    for network in ("q_network", "v_network"):
        loaded = getattr(iql, network).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in saved[network].items())
    assert not [warning for warning in recwarn if "dimension" in str(warning.message)]


def test_a_model_of_another_width_is_unknown_and_warned_of(tmp_path: Path) -> None:
    path = iql_file(tmp_path, 31)
    with pytest.warns(UserWarning, match="31"):
        iql, _, kind = load_iql_model(path, "cpu")
    assert kind == "unknown" and iql.q_network.net[0].in_features == 31


def test_a_file_that_is_no_model_is_refused_by_what_it_lacks(tmp_path: Path) -> None:

    torch.save({"state_dim": 27}, tmp_path / "half.pt")
    for path in (tmp_path / "half.pt", tmp_path / "absent.pt"):
        with pytest.raises((EsperError, FileNotFoundError), match=path.stem):
            load_iql_model(path, "cpu")


# ---- PPO


def states(agent: Any) -> dict[str, Tensor]:
    tensors, _ = agent.state()
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_an_agent_comes_back_from_safetensors_and_a_sidecar(tmp_path: Path) -> None:
    agent = PPOAgent(state_dim=50, device="cpu")
    agent.save(tmp_path / "agent", metadata={"note": "first", "epoch": 3})
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    assert '"first"' in next(tmp_path.glob("*.json")).read_text()
    other = PPOAgent(state_dim=50, device=torch.device("cpu"))
    other.load(tmp_path / "agent")
    before, after = states(agent), states(other)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_an_agent_comes_back_from_a_torch_file_that_loads_safely(tmp_path: Path) -> None:
    agent, path = PPOAgent(state_dim=50), tmp_path / "agent.pt"
    agent.save(str(path), metadata={"note": "first"})
    assert [found.name for found in tmp_path.iterdir()] == ["agent.pt"]
    payload = torch.load(path, weights_only=True)
    assert isinstance(payload, dict) and "first" in str(payload["metadata"])
    other = PPOAgent(state_dim=50)
    other.load(path)
    before, after = states(agent), states(other)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_agent_of_another_width_is_refused_and_left_alone(tmp_path: Path) -> None:

    PPOAgent(state_dim=50).save(tmp_path / "agent")
    other = PPOAgent(state_dim=27)
    before = copy.deepcopy(states(other))
    with pytest.raises(EsperError):
        other.load(tmp_path / "agent")
    assert all(torch.equal(before[name], value) for name, value in states(other).items())


# ---- beside the heuristic


@pytest.mark.slow
@pytest.mark.parametrize("state_dim", [27, 37])
def test_a_model_shadows_the_heuristic(tmp_path: Path, state_dim: int) -> None:
    result = live_comparison(iql_file(tmp_path, state_dim), n_episodes=2, max_epochs=2, device="cpu")
    assert result["decisions"] == 2 * 2 and 0 <= result["agreed"] <= 4
    assert result["agreement"] == result["agreed"] / 4


@pytest.mark.slow
def test_both_play_the_same_episodes(tmp_path: Path) -> None:
    def play(state_dim: int, stray: int) -> dict[str, Any]:
        torch.manual_seed(stray)
        return head_to_head_comparison(str(iql_file(tmp_path, state_dim)), n_episodes=2, max_epochs=3, device="cpu")

    first, other = play(37, stray=0), play(27, stray=1)
    assert len(first["episodes"]) == 2 and set(first["episodes"][0]) >= {"seed", "heuristic", "iql"}
    for mine, its in zip(first["episodes"], other["episodes"], strict=True):
        assert mine["seed"] == its["seed"] and mine["heuristic"] == its["heuristic"]  # whoever plays against it
    assert first["episodes"][0]["seed"] != first["episodes"][1]["seed"]
    for side in ("heuristic", "iql"):
        mean = sum(episode[side]["test_accuracy"] for episode in first["episodes"]) / 2
        assert first["aggregate"][side]["test_accuracy"]["mean"] == pytest.approx(mean)
