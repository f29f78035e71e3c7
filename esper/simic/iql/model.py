"""Implicit Q-learning: what is best among what was done, learned from records alone."""

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import LearnerError
from esper.simic.iql.files import KIND, NETWORKS, NUMBERS, read_model, write_model
from esper.simic.iql.parts import Network, advantage_weights, expectile_loss, masked_log_softmax
from esper.simic.on_policy.normalizer import RunningNormalizer


class IQL:
    """Twin Q networks learn by TD, a V network the tau-expectile of Q, a policy by advantage-weighted regression.

    `q_network` (the first of the twins) and `policy_network` map states to one number an action, `v_network` to one.
    The smaller of the twins' targets counts. Without a policy (`has_policy`, for files that hold none) the model is
    greedy in Q.

    Args:
        gamma: discount. tau: expectile, in (0, 1). beta: inverse temperature of the regression, from 0 on.
        hidden: widths of the hidden layers. polyak: share of the online twins taken into their targets at each update.
        seed: of the first weights.

    Source: Kostrikov, Nair and Levine 2021, "Offline reinforcement learning with implicit Q-learning",
    arXiv:2110.06169; the policy is categorical here.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        gamma: float = 0.99,
        tau: float = 0.7,
        beta: float = 3.0,
        device: str | torch.device = "cpu",
        hidden: Sequence[int] = (128, 128),
        learning_rate: float = 3e-4,
        polyak: float = 0.005,
        seed: int = 0,
    ) -> None:
        if not (min(state_dim, action_dim, *hidden) >= 1 and 0 <= gamma <= 1 and 0 < tau < 1 and beta >= 0):
            raise LearnerError(
                f"state_dim={state_dim}, action_dim={action_dim}, hidden={list(hidden)}, gamma={gamma}, tau={tau}, "
                f"beta={beta}: expected sizes >= 1, gamma in [0, 1], tau in (0, 1) and beta >= 0."
            )
        self.state_dim, self.action_dim = state_dim, action_dim
        self.gamma, self.tau, self.beta, self.polyak = gamma, tau, beta, polyak
        self.hidden, self.device = tuple(hidden), torch.device(device)
        generator = torch.Generator().manual_seed(seed)
        for name in NETWORKS:
            outputs = 1 if name == "v_network" else action_dim
            setattr(self, name, Network((state_dim, *hidden, outputs), generator).to(self.device))
        self.targets = self._copy_twins()
        self.normalizer: RunningNormalizer | None = None
        self.has_policy = True
        self.optimizer = torch.optim.Adam(self._parameters().values(), learning_rate, fused=True)

    q_network: Network
    q_twin: Network
    v_network: Network
    policy_network: Network

    def normalize_by(self, states: Tensor) -> None:
        """From now on the networks see states on the scale of these [N, S]."""
        self.normalizer = self._new_normalizer()
        self.normalizer.update(states.to(self.device))

    # ---- learning

    def update(self, batch: Mapping[str, Tensor], weights: Tensor | None = None) -> dict[str, Tensor]:
        """One gradient step of every network.

        Args:
            batch: states, next_states [B, S], actions [B], rewards, dones [B] (1 where nothing follows), and
                optionally masks [B, A], the actions that were legal.
            weights: [B] importance of each transition, 1 by default.

        Returns: value_loss, q_loss, policy_loss, advantage, advantage_weight (means, 0-d) and td_error [B]; nothing
        waits for the device.
        """
        batch = {name: values.to(self.device) for name, values in batch.items()}
        states, next_states = self._normalize(batch["states"]), self._normalize(batch["next_states"])
        actions, masks = batch["actions"].long().unsqueeze(1), batch.get("masks")
        values, next_values = self.v_network(torch.cat([states, next_states])).squeeze(1).chunk(2)
        with torch.no_grad():
            target = torch.minimum(*(critic(states) for critic in self.targets)).gather(1, actions).squeeze(1)
        advantages = target - values
        goals = batch["rewards"] + self.gamma * (1 - batch["dones"].float()) * next_values.detach()
        twins = torch.cat([q(states).gather(1, actions) for q in (self.q_network, self.q_twin)], 1)
        errors = goals.unsqueeze(1) - twins  # [B, 2]
        chosen = masked_log_softmax(self.policy_network(states), masks).gather(1, actions).squeeze(1)
        imitation = advantage_weights(advantages.detach(), self.beta)
        losses = {
            "value_loss": expectile_loss(advantages, self.tau),
            "q_loss": errors.square().sum(1),
            "policy_loss": -imitation * chosen,
        }
        if weights is not None:
            losses = {name: loss * weights.to(self.device) for name, loss in losses.items()}
        means = {name: loss.mean() for name, loss in losses.items()}
        self.optimizer.zero_grad()
        torch.stack(list(means.values())).sum().backward()
        self.optimizer.step()
        self._move_targets()
        means |= {"advantage": advantages.mean(), "advantage_weight": imitation.mean()}
        return {name: value.detach() for name, value in (means | {"td_error": errors.mean(1)}).items()}

    # ---- acting

    def q_values(self, states: Tensor) -> Tensor:
        """The smaller of the twins' values of every action. Args: states [B, S]. Returns: [B, A]."""
        with torch.no_grad():
            states = self._normalize(states.to(self.device))
            return torch.minimum(self.q_network(states), self.q_twin(states))

    def log_policy(self, states: Tensor, masks: Tensor | None = None) -> Tensor:
        """Log-probabilities [B, A], -inf where forbidden. Args: states [B, S]; masks [B, A], True where legal."""
        with torch.no_grad():
            logits = self.policy_network(self._normalize(states.to(self.device)))
            return masked_log_softmax(logits, None if masks is None else masks.to(self.device))

    def act(self, states: Tensor, masks: Tensor | None = None) -> Tensor:
        """The most probable legal action of each state (without a policy: the one of highest Q).

        Args: states [B, S] or [S]; masks [B, A] or [A], True where legal. Returns: [B], or 0-d.
        """
        rows = torch.atleast_2d(states)
        legal = torch.ones(len(rows), self.action_dim, dtype=torch.bool) if masks is None else torch.atleast_2d(masks)
        if legal.shape != (len(rows), self.action_dim) or not legal.any(1).all():
            raise LearnerError(
                f"masks have shape {list(legal.shape)}; expected {[len(rows), self.action_dim]} with a legal action in "
                "every row."
            )
        legal = legal.to(self.device)
        scores = self.log_policy(rows) if self.has_policy else self.q_values(rows)
        actions = scores.masked_fill(~legal, -torch.inf).argmax(1)
        return actions.reshape(states.shape[:-1])

    # ---- keeping

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that decides later updates and actions, as tensors and plain values."""
        tensors = {f"weights.{name}": value.detach() for name, value in self._parameters().items()}
        tensors |= {f"target.{name}": value for name, value in self.targets.state_dict().items()}
        if self.normalizer is not None:
            tensors |= {f"normalizer.{name}": value for name, value in self.normalizer.state_dict().items()}
        for name, parameter in self._parameters().items():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{key}.{name}": value for key, value in moments.items()}
        plain = {name: getattr(self, name) for name in (*NUMBERS, "polyak", "has_policy")} | {
            "kind": KIND,
            "hidden": list(self.hidden),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        return {name: tensor.clone() for name, tensor in tensors.items()}, plain

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken. Raises LearnerError where it is of other networks."""
        given = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        try:
            for name, parameter in self._parameters().items():
                parameter.data.copy_(given[f"weights.{name}"])
                keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"optimizer.{key}.{name}" in given]
                self.optimizer.state[parameter] = {key: given[f"optimizer.{key}.{name}"].clone() for key in keys}
            self.targets.load_state_dict(_under("target.", given))
            self._load_normalizer(_under("normalizer.", given))
        except (KeyError, RuntimeError) as error:
            raise LearnerError(f"The state is not of this IQL: {str(error).splitlines()[0]}.") from error
        self.has_policy = plain["has_policy"]

    def save(self, path: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> Path:
        """Write what acting takes (see `iql_files`), and return the path."""
        held: dict[str, Any] = {name: getattr(self, name) for name in NUMBERS}
        names = NETWORKS if self.has_policy else NETWORKS[:-1]
        held |= {name: dict(getattr(self, name).state_dict()) for name in names}
        if self.normalizer is not None:
            held["normalizer"] = dict(self.normalizer.state_dict())
        return write_model(path, held, metadata or {})

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> "IQL":
        """The model of a file, to act with; of a torch file, its seven first keys are enough.

        Raises CheckpointError where the file cannot be read, LearnerError where it holds no IQL model.
        """
        held = read_model(path)
        try:
            widths = [len(bias) for name, bias in held["q_network"].items() if name.endswith("bias")]
            model = cls(**{name: held[name] for name in NUMBERS}, device=device, hidden=widths[:-1])
            for name in NETWORKS:
                getattr(model, name).load_state_dict(held.get(name, held["q_network"]))
            model.has_policy = "policy_network" in held
            model.targets = model._copy_twins()
            model._load_normalizer(held.get("normalizer", {}))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise LearnerError(
                f"{path} holds no IQL model that can be used: {str(error).splitlines()[0]}; expected networks of "
                "linear layers `net.0`, `net.2`, ... that fit state_dim and action_dim."
            ) from error
        return model

    @classmethod
    def from_state(
        cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], device: str | torch.device = "cpu"
    ) -> "IQL":
        """The model whose `state` this is. Raises LearnerError where it is of another learner."""
        if plain.get("kind") != KIND:
            raise LearnerError(f"This is the state of a {plain.get('kind')!r} learner; expected {KIND!r}.")
        options = {name: plain[name] for name in (*NUMBERS, "hidden", "learning_rate", "polyak")}
        model = cls(**options, device=device)
        model.load_state(tensors, plain)
        return model

    # ---- parts

    def _copy_twins(self) -> nn.ModuleList:
        return nn.ModuleList(deepcopy([self.q_network, self.q_twin])).requires_grad_(False)

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {f"{part}.{name}": p for part in NETWORKS for name, p in getattr(self, part).named_parameters()}

    def _new_normalizer(self) -> RunningNormalizer:
        return RunningNormalizer(self.state_dim).to(self.device)

    def _load_normalizer(self, tensors: Mapping[str, Tensor]) -> None:
        self.normalizer = self._new_normalizer() if tensors else None
        if self.normalizer is not None:
            self.normalizer.load_state_dict(tensors)

    def _normalize(self, states: Tensor) -> Tensor:
        return states if self.normalizer is None else self.normalizer(states)

    def _move_targets(self) -> None:
        for target, online in zip(self.targets, (self.q_network, self.q_twin), strict=True):
            for kept, new in zip(target.parameters(), online.parameters(), strict=True):
                kept.lerp_(new.detach(), self.polyak)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
