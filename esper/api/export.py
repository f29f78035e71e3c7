"""`esper.export`: a grown network for programs without esper."""

from pathlib import Path

from esper.api.handle import RunHandle
from esper.api.runs import open_run


def export(
    run: RunHandle | str | Path, member: str | int = "best", to: str | Path | None = None, force: bool = False
) -> Path:
    """Write one member of a run as a file: `esper.export(run, to="net.pt2")`.

    What `to` ends in decides: `.pt2` is loaded by `torch.export.load(to).module()`, `.onnx` by any ONNX runtime, and of
    `.safetensors` a Python module of the same name stands beside it, whose `load()` needs torch and safetensors alone.
    Outputs are the member's own, to 1e-6; the batch may be of any size.

    Args:
        run: what `esper.launch` gave, or a run's folder.
        member: its number, grown first, then their twins; "best": the grown one of the highest validation score.
        to: the file (default: member_N.pt2, in the working folder).
        force: replace a file that is there.

    Returns: the file's path.

    Raises: EsperError where there is no such run or member, the file is there, or torch cannot export the network.
    """
    from esper.study.export.exporting import export_member

    folder = run.folder if isinstance(run, RunHandle) else open_run(run).folder
    return export_member(folder, member, to, force)
