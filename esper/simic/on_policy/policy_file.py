"""Policies in files of their own."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from esper.checkpoint import Checkpoint, read_bundle, write_bundle
from esper.checkpoint.convert import read_torch, write_torch
from esper.checkpoint.sources import SUFFIXES
from esper.errors import LearnerError

_KIND = "policy"


class _Loadable(Protocol):
    metadata: dict[str, Any]

    @classmethod
    def from_state(
        cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], device: str | torch.device
    ) -> Self: ...

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None: ...


P = TypeVar("P", bound=_Loadable)


class LoadMethod:
    """`Agent.load(path, device="cpu")` builds the learner of a file; `agent.load(path)` loads into that one.

    Both return it. Raises CheckpointError where the file is unsound, LearnerError where it is of another learner, or
    features or actions differ.
    """

    def __get__(self, agent: P | None, kind: type[P]) -> Callable[..., P]:
        return partial(_build, kind) if agent is None else partial(_restore, agent)


def save_policy(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], plain: dict[str, Any], metadata: dict[str, Any]
) -> Path:
    """Write a learner's state as `.safetensors` + `.json`, or as a torch file where the path says so."""
    if Path(path).suffix in SUFFIXES:
        detached = {name: tensor.detach() for name, tensor in tensors.items()}
        return write_torch({"tensors": detached, "state": plain, "metadata": metadata}, path)
    return write_bundle(path, Checkpoint(tensors=tensors, kind=_KIND, state=plain, metadata=metadata))


def read_policy(path: str | os.PathLike[str]) -> tuple[Mapping[str, Tensor], dict[str, Any], dict[str, Any]]:
    """A learner's tensors, its plain state and the metadata, of a file that `save_policy` wrote."""
    if Path(path).suffix in SUFFIXES:
        payload = read_torch(path)
        if not isinstance(payload, dict) or {"tensors", "state", "metadata"} - payload.keys():
            raise LearnerError(f"{path} holds no policy; expected a file that a learner's save() wrote.")
        return payload["tensors"], payload["state"], payload["metadata"]
    checkpoint = read_bundle(path)
    if checkpoint.kind != _KIND:
        raise LearnerError(f"{path} holds a checkpoint of kind {checkpoint.kind!r}; expected {_KIND!r}.")
    return checkpoint.tensors, checkpoint.state, checkpoint.metadata


def _build(kind: type[P], path: str | os.PathLike[str], device: str | torch.device = "cpu") -> P:
    tensors, plain, metadata = read_policy(path)
    agent = kind.from_state(tensors, plain, device)
    agent.metadata = metadata
    return agent


def _restore(agent: P, path: str | os.PathLike[str]) -> P:
    tensors, plain, metadata = read_policy(path)
    agent.load_state(tensors, plain)
    agent.metadata = metadata
    return agent
