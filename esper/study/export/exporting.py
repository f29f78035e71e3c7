"""A member of a run as a file that needs no esper: .pt2, .onnx, or .safetensors with a module file."""

import logging
import warnings
from importlib.util import find_spec
from io import BytesIO
from keyword import iskeyword
from os import PathLike
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.export import Dim, ExportedProgram

from esper.checks import did_you_mean, is_whole, require
from esper.engine.growth import Growth
from esper.errors import ConfigError, EngineError, EsperError, RunError, first_line
from esper.files import write_atomic
from esper.kasmina import MorphogeneticModel
from esper.kasmina.copying import copy_network
from esper.runner.checkpointing import load_growth, member_of
from esper.study.export.lowering import lowered
from esper.study.export.module_file import module_file

BEST = "best"
SUFFIXES = (".pt2", ".onnx", ".safetensors")
_TOLERANCE = 1e-6  # of the file's outputs beside the member's, relative to the largest


def export_member(folder: Path, member: str | int = BEST, to: str | Path | None = None, force: bool = False) -> Path:
    """Write a member's network, as the newest checkpoint has it, for programs without esper.

    Args:
        folder: of the run.
        member: its number; grown members first, then their twins; BEST: the grown one of the highest validation score.
        to: the file; its suffix decides what it is (default: member_N.pt2, here).
        force: replace a file that is there.

    Returns: the file, which takes inputs [B, ...] of any B >= 1 on the CPU.

    Raises: EsperError where there is no such run or member, the file is there, or the network cannot be exported.
    """
    if to is not None:
        require(isinstance(to, str | PathLike), "to", to, "a file, such as 'net.pt2'")
        check_target(Path(to), force)
    growth = load_growth(folder)
    number = number_of(growth, member)
    path = Path(f"member_{number}.pt2" if to is None else to)
    check_target(path, force)
    program, example = program_of(
        member_of(growth, number, folder), growth.task.input_shape, f"{folder}: member {number}"
    )
    match path.suffix:
        case ".pt2":
            write_atomic(path, _as_archive(program))
        case ".onnx":
            write_atomic(path, _as_onnx(program))
        case ".safetensors":
            text, tensors = module_file(program, example, path.name)
            write_atomic(path, save(tensors))
            write_atomic(path.with_suffix(".py"), text.encode())
    return path


def check_target(path: Path, force: bool) -> None:
    """Raises EsperError where nothing can, or may, be written there."""
    if path.suffix not in SUFFIXES:
        hint = did_you_mean(path.suffix, SUFFIXES)
        raise ConfigError(f"{path}: expected a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}{hint}")
    missing = [name for name in ("onnx", "onnxscript") if path.suffix == ".onnx" and find_spec(name) is None]
    if missing:
        raise EsperError(f"{path}: the package {missing[0]} is not installed\n  pip install 'esper[onnx]'")
    if not path.parent.is_dir():
        raise EsperError(f"{path}: there is no folder {path.parent}")
    for file in written(path):
        if file.exists() and not force:
            raise EsperError(f"{file} is there already\n  to replace it: --force, from Python force=True")


def written(path: Path) -> list[Path]:
    """The files that an export to this one writes."""
    if path.suffix == ".safetensors" and (not path.stem.isidentifier() or iskeyword(path.stem)):
        raise ConfigError(f"{path}: its module is to be imported as {path.stem!r}; use letters, digits and underscores")
    return [path, path.with_suffix(".py")] if path.suffix == ".safetensors" else [path]


def number_of(growth: Growth, member: str | int) -> int:
    """The member's number. Raises RunError where it is neither a number nor BEST."""
    if member == BEST:
        reports = [report for report in growth.reports() if not report.is_twin]
        return max(reports, key=lambda report: report.val_accuracy).member
    is_number = is_whole(member) or (isinstance(member, str) and member.isdecimal())
    if not is_number:
        raise RunError(f"member {member!r}: expected {BEST!r} or a number, such as 0")
    return int(member)


def program_of(model: MorphogeneticModel, input_shape: tuple[int, ...], what: str) -> tuple[ExportedProgram, Tensor]:
    """The network as torch.export has it, and an input [2, ...] that was tried; the model stays as it is.

    Args: input_shape: of one sample; what: is named where it fails. Raises: EngineError.
    """
    model = copy_network(model).cpu().eval()
    sample = model.host.example_input(input_shape)
    example = torch.cat([sample, sample])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch to itself
        expected = model(example)
        try:
            free = {0: Dim("batch")}
            program = torch.export.export(lowered(model), (example,), dynamic_shapes=(free,), strict=False)
        except Exception as error:  # whatever a network of any make may raise in there
            raise EngineError(f"{what}: torch.export cannot take its network: {first_line(error)}") from error
        difference = (program.module()(example) - expected).abs().max()
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise EngineError(f"{what}: torch.export gives another network: outputs differ by {float(difference):.2g}")
    return program, example


def _as_archive(program: ExportedProgram) -> bytes:
    data = BytesIO()
    torch.export.save(program, data)
    return data.getvalue()


def _as_onnx(program: ExportedProgram) -> bytes:
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of packages that are not needed here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(program, dynamo=True, verbose=False)
    finally:
        log.setLevel(level)
    assert made is not None
    return bytes(made.model_proto.SerializeToString())
