"""One training step as a CUDA graph: captured once a topology, replayed for every minibatch."""

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, "int | Tensor"], tuple[Tensor, Tensor]]
WARMUP_STEPS = 3


class GraphedStep:
    """Calls `step(x, y, index)` through graphs, one for each batch shape that comes up often enough.

    The first steps of a shape run eagerly on a side stream, as capture demands; they are ordinary steps. Afterwards
    minibatch and index are copied into the memory that the graph reads.
    """

    def __init__(self, step: Step, generation: int) -> None:
        self.step = step
        self.generation = generation  # of the work that was captured
        self.seen: dict[torch.Size, int] = {}
        self.graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], tuple[Tensor, Tensor]]] = {}

    def __call__(self, x: Tensor, y: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """One step; the returned tensors are overwritten by the next one."""
        position = torch.full((1,), index, dtype=torch.int64, device=x.device)
        held = self.graphs.get(x.shape)
        if held is not None:
            graph, inputs, outputs = held
            for target, source in zip(inputs, (x, y, position), strict=True):
                target.copy_(source)
            graph.replay()
            return outputs
        self.seen[x.shape] = self.seen.get(x.shape, 0) + 1
        if self.seen[x.shape] <= WARMUP_STEPS:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                result = self.step(x, y, position)
            torch.cuda.current_stream().wait_stream(stream)
            return result
        inputs = (x.clone(), y.clone(), position)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # records, does not run
            outputs = self.step(*inputs)
        self.graphs[x.shape] = (graph, inputs, outputs)
        graph.replay()
        return outputs
