"""Hosts of linear layers: all lies as images do, [R, ..., N]; what images have no rule for runs as sequences do."""

from torch import Tensor, fx

from esper.engine.fusion.image_layout import ImageLayout
from esper.engine.fusion.sequence_layout import SequenceLayout
from esper.engine.fusion.tracing import LayerFn, Modules, Tensors


class VectorLayout(ImageLayout):
    """The layout of hosts whose features are vectors; see `esper.engine.fusion.tracing.Layout`."""

    leaves = SequenceLayout.leaves
    sequences = SequenceLayout()

    def lower(self, chain: list[fx.Node], modules: Modules) -> LayerFn | None:
        """See `Layout.lower`."""
        rule = super().lower(chain, modules)
        if rule is not None:
            return rule
        rule = self.sequences.lower(chain, modules)
        return None if rule is None else _moved(rule)

    def losses(self, outputs: Tensor, y: Tensor, loss: str) -> tuple[Tensor, Tensor]:
        """outputs [M, ..., K, N], y [M or 1, N, ...] of classes; outputs [M, K, N], y [M or 1, N, K] of targets."""
        return (
            super().losses(outputs, y, loss)
            if outputs.dim() == 3
            else self.sequences.losses(outputs.movedim(-1, 1), y, loss)
        )


def _moved(rule: LayerFn) -> LayerFn:
    """A rule of sequences, whose samples come before all else."""

    def run(inputs: list[Tensor], tensors: Tensors, training: bool) -> Tensor:
        return rule([x.movedim(-1, 1) for x in inputs], tensors, training).movedim(1, -1)

    return run
