"""The program of a population's hosts, in the layout of their topology."""

from collections.abc import Sequence

from esper.engine.fusion.fusable import check_hosts
from esper.engine.fusion.image_layout import ImageLayout
from esper.engine.fusion.sequence_layout import SequenceLayout
from esper.engine.fusion.tracing import Layout, Program
from esper.engine.fusion.vector_layout import VectorLayout
from esper.errors import EngineError
from esper.kasmina.host import MorphogeneticModel


def host_program(models: Sequence[MorphogeneticModel], layout: Layout) -> Program:
    """The program of these models' hosts. Raises EngineError, naming the layer, where they cannot be fused."""
    try:
        check_hosts(models)
        return Program(models[0].host, layout)
    except EngineError as error:
        raise EngineError(models[0].host.in_own_words(str(error))) from error


LAYOUTS: dict[str, type[Layout]] = {
    "cnn": ImageLayout,
    "cnn1d": ImageLayout,
    "transformer": SequenceLayout,
    "mlp": VectorLayout,
}


def make_layout(topology: str) -> Layout:
    """The layout for hosts of a topology. Raises EngineError where there is none."""
    if topology not in LAYOUTS:
        raise EngineError(f"topology {topology!r} has no fused layout; there is one for {', '.join(LAYOUTS)}")
    return LAYOUTS[topology]()
