"""A policy that acts: its network, its optimizer, and all that is kept of them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from esper.checkpoint import pack_generators, unpack_generators
from esper.checkpoint.tensors import compare_tensors
from esper.errors import LearnerError
from esper.leyline import ActionLayout, Operation
from esper.leyline.ranks import ALONE, Ranks
from esper.simic.learner import Decision, action_name, check_names
from esper.simic.on_policy.action_tree import ActionTree
from esper.simic.on_policy.config import LearnedPolicyConfig
from esper.simic.on_policy.networks import ActorCritic
from esper.simic.on_policy.normalizer import RunningNormalizer
from esper.simic.on_policy.policy_file import LoadMethod, save_policy


class ActingPolicy:
    """A policy and value network over normalised observations, with the optimizer that moves it.

    Args:
        state_dim, action_dim: F features of an observation, A actions.
        paths: the steps that lead to each action (see ActionTree); None: one choice among all.
        settings: None: the defaults.
        features, actions: names, which a policy that is loaded must share.
        prior: weights of the first step's choices before anything is learned; None: even.
        seed: of the weights, the draws and the minibatches.
        ranks: that learn together.
    """

    kind: ClassVar[str]
    settings_type: ClassVar[type[LearnedPolicyConfig]]
    load = LoadMethod()

    def __init__(
        self,
        state_dim: int = 50,
        device: str | torch.device = "cpu",
        action_dim: int = 7,
        paths: Sequence[Sequence[int]] | None = None,
        settings: LearnedPolicyConfig | None = None,
        features: Sequence[str] | None = None,
        actions: Sequence[str] | None = None,
        prior: Mapping[int, float] | None = None,
        seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.settings = self.settings_type() if settings is None else settings
        self.device = torch.device(device)
        self.state_dim, self.action_dim = state_dim, action_dim
        self.bootstrap_truncated = self.settings.bootstrap_truncated
        self.features = list(features or (f"feature_{index}" for index in range(state_dim)))
        self.actions = list(actions or (f"action_{index}" for index in range(action_dim)))
        tree = ActionTree.flat(action_dim) if paths is None else ActionTree(paths)
        if (len(self.features), len(self.actions), len(tree)) != (state_dim, action_dim, action_dim):
            raise LearnerError(
                f"{len(self.features)} names of features, {len(self.actions)} of actions and {len(tree)} paths; "
                f"expected {state_dim}, {action_dim} and {action_dim}."
            )
        self.generators = {
            name: torch.Generator().manual_seed(seed * 3 + index)
            for index, name in enumerate(("weights", "actions", "minibatches"))
        }
        self.tree = tree.to(self.device)
        self.network = ActorCritic(
            state_dim,
            tree.size,
            self.settings.hidden,
            self.settings.network,
            generator=self.generators["weights"],
            bias=None if prior is None else tree.bias(prior),
        ).to(self.device)
        self.normalizer = RunningNormalizer(state_dim).to(self.device)
        self.return_moments = RunningNormalizer(1).to(self.device)
        self.optimizer = _adam(self.network, self.settings.learning_rate)
        self.updates_done = 0
        self.metadata: dict[str, Any] = {}

    @classmethod
    def for_growth(
        cls,
        features: Sequence[str],
        layout: ActionLayout,
        settings: LearnedPolicyConfig,
        device: str | torch.device = "cpu",
        seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> Self:
        """A policy that grows hosts. Args: features: names of what the encoder sees."""
        return cls(
            state_dim=len(features),
            device=device,
            action_dim=len(layout),
            paths=layout.paths,
            settings=settings,
            features=features,
            actions=[action_name(action) for action in layout.actions],
            prior={int(Operation[name.upper()]): weight for name, weight in settings.operation_prior.items()},
            seed=seed,
            ranks=ranks,
        )

    def save(self, path: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Write everything that `state` holds: `.safetensors` + `.json`, or a `.pt` file that loads weights-only.

        Args: metadata: plain values, found again in `metadata` after `load`. Raises CheckpointError.
        """
        save_policy(path, *self.state(), metadata or {})

    def first_memory(self, members: int) -> Tensor | None:
        """What an LSTM remembers at an episode's beginning [M, 2H]; None without one."""
        return self.network.first_memory(members)

    @torch.no_grad()
    def act(
        self,
        observations: NDArray[Any],
        masks: NDArray[Any],
        deterministic: bool = False,
        memory: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Decision:
        """Decide for M members. Args: observations [M, F]; masks [M, A]; generator: instead of the learner's own."""
        mask = torch.as_tensor(masks, device=self.device)
        logits, values, memory = self.network(self._seen(observations), memory)
        log_probs = self.tree.log_probs(logits, mask)
        if deterministic:
            actions = self.tree.mode(logits, mask)
        else:
            actions = self.tree.sample(log_probs, generator or self.generators["actions"]).to(self.device)
        return Decision(actions, log_probs.gather(1, actions.unsqueeze(1)).squeeze(1), values, memory)

    @torch.no_grad()
    def values(self, observations: NDArray[Any], memory: Tensor | None = None) -> Tensor:
        """What the policy expects to gain from here on [M]."""
        values: Tensor = self.network(self._seen(observations), memory)[1]
        return values

    def evaluate_actions(
        self, observations: Tensor, masks: Tensor, starts: Tensor | None = None, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of all actions [.., A], entropies of each step [.., D] and values [..], with gradients.

        Args: observations: *normalised* ones [.., F]; masks [.., A]. With an LSTM they are [T, B, ..], and starts
        [T, B] and memory [B, 2H] are the rollout's.
        """
        logits, values = self.network.sequence(observations, starts, memory)
        log_probs, entropies = self.tree.evaluate(logits.flatten(0, -2), masks.flatten(0, -2))
        return log_probs.unflatten(0, values.shape), entropies.unflatten(0, values.shape), values

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides later actions and updates: tensors by name, and plain JSON values."""
        tensors = self._policy_tensors()
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = value
        return tensors | pack_generators(self.generators), {
            "kind": self.kind,
            "features": self.features,
            "actions": self.actions,
            "paths": [list(path) for path in self.tree.paths],
            "settings": asdict(self.settings),
            "updates_done": self.updates_done,
        }

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], *, policy_only: bool = False) -> None:
        """Continue exactly where `state` was taken; policy_only: take over what it decides by, and learn anew.

        Raises LearnerError where features, actions or the network are others; nothing is then changed.
        """
        self._check_alike(plain)
        expected = self._policy_tensors() if policy_only else self.state()[0]
        given = {name: tensor for name, tensor in tensors.items() if not policy_only or name in expected}
        compare_tensors(expected, given, f"The {plain['kind']} policy")
        if not policy_only:
            unpack_generators(self.generators, given)
            self.updates_done = plain["updates_done"]
        with torch.no_grad():
            for name, tensor in expected.items():
                if not name.startswith("rng."):
                    tensor.copy_(given[name])

    @classmethod
    def from_state(
        cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], device: str | torch.device = "cpu"
    ) -> Self:
        """The learner whose `state` this is. Raises LearnerError where it is of another kind."""
        if plain.get("kind") != cls.kind:
            raise LearnerError(f"This is the policy of a {plain.get('kind')!r} learner; expected {cls.kind!r}.")
        try:
            settings = cls.settings_type(**plain["settings"])
        except TypeError as error:
            raise LearnerError(f"The policy's settings are those of another version of esper: {error}.") from error
        learner = cls(
            state_dim=len(plain["features"]),
            device=device,
            action_dim=len(plain["actions"]),
            paths=plain["paths"],
            settings=settings,
            features=plain["features"],
            actions=plain["actions"],
        )
        learner.load_state(tensors, plain)
        return learner

    def _seen(self, observations: NDArray[Any]) -> Tensor:
        normalized: Tensor = self.normalizer(torch.as_tensor(observations, device=self.device))
        return normalized

    def _policy_tensors(self) -> dict[str, Tensor]:
        modules = {"network": self.network, "normalizer": self.normalizer, "returns": self.return_moments}
        return {f"{name}.{key}": value for name, one in modules.items() for key, value in one.state_dict().items()}

    def _check_alike(self, plain: Mapping[str, Any]) -> None:
        if plain.get("kind") != self.kind:
            raise LearnerError(f"This is the policy of a {plain.get('kind')!r} learner; expected {self.kind!r}.")
        check_names("features", self.features, plain["features"])
        check_names("actions", self.actions, plain["actions"])
        if [tuple(path) for path in plain["paths"]] != list(self.tree.paths):
            raise LearnerError("The policy was trained to choose the same actions by other steps; train it anew.")
        for key in ("network", "hidden"):
            theirs, own = plain["settings"][key], getattr(self.settings, key)
            if theirs != own:
                raise LearnerError(f"The policy has policy.{key}={theirs}, and policy.{key}={own} is asked for.")


def _adam(network: nn.Module, rate: float) -> torch.optim.Adam:
    """With its state there from the first: a checkpoint before any update has the same names as one after."""
    optimizer = torch.optim.Adam(network.parameters(), rate, eps=1e-5, fused=True)
    for parameter in network.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }
    return optimizer
