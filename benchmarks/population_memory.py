"""Memory of `benchmarks.population`: what training takes at its peak, and what it could not do without."""

import copy
import multiprocessing
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.population_cases import Case, build_models, cross_entropy, data, runner


def peak_mb(case: Case, engine: str, device: str) -> float:
    """Memory that building and training add to the process, at its peak."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_peak, (case, engine, device))


def _measure_peak(case: Case, engine: str, device: str) -> float:
    small = replace(case, members=1)
    for _ in range(2):
        runner(small, engine, device)()  # libraries load and code pages in before the count begins
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _train_twice(case, engine, device)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status_kb("VmRSS")
    _train_twice(case, engine, device)
    return (_status_kb("VmHWM") - before) * 1024 / 1e6


def _train_twice(case: Case, engine: str, device: str) -> None:
    epoch = runner(case, engine, device)
    epoch()
    epoch()


def _status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def budget_mb(case: Case) -> float:
    """Data, and for every member its weights, gradients, momentum and what a step's backward pass keeps."""
    x, y, order = data(case, "cpu")
    model = copy.deepcopy(build_models(replace(case, members=4), "cpu")[0])
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = cross_entropy(model(x[: case.batch].clone()), y[: case.batch])
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    activations = sum(size for pointer, size in kept.items() if pointer not in parameters)
    del loss
    return (
        sum(t.numel() * t.element_size() for t in (x, y, order)) + case.members * (3 * weights + buffers + activations)
    ) / 1e6
