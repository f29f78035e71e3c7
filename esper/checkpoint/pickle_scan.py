"""What a pickle in a torch file asks for, read without making any of it.

The opcodes are followed on a small stack machine that knows no Python objects but plain containers: a class or function
stays a name, a call to it stays a `StandIn`. Nothing is imported, called or hashed at a file's wish.
"""

import io
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from esper.errors import CheckpointError

_ZIP_START = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_COLLECTIONS = ("builtins.set", "builtins.frozenset", "collections.deque")
_ATOMS = (type(None), bool, int, float, str, bytes)
_PUSHES_ITS_ARGUMENT = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    )
)


@dataclass(eq=False, slots=True)
class Global:
    """A class or function by name. `is_safe`: torch.load(weights_only=True) knows it."""

    module: str
    qualname: str
    is_safe: bool = False

    @property
    def name(self) -> str:
        """As one would write it in Python."""
        return f"{self.module}.{self.qualname}"


@dataclass(eq=False, slots=True)
class StandIn:
    """An object that a pickle asks for: what is to be called or made, with which arguments, and what goes into it."""

    what: Global
    args: tuple[Any, ...] = ()
    is_call: bool = True  # False: made through __new__, so that the arguments are part of the object
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Key:
    """A dictionary key that is not hashed, since hashing is work that a file can make endless."""

    value: Any


class Scan(NamedTuple):
    """`layout` is "zip", "legacy" or "pickle" (one that torch did not write); `unsafe` in the order of appearance."""

    layout: str
    root: Any
    unsafe: list[str]


def scan_file(path: Path) -> Scan:
    """Read the structure of a torch file. Raises CheckpointError where it is none, or is malformed."""
    known: dict[str, Global] = {}
    try:
        if is_zip(path):
            layout, root = "zip", _Machine(known).run(io.BytesIO(_zip_record(path)))
        else:
            with path.open("rb") as file:
                layout, root = _scan_sequence(file, known)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError, RuntimeError) as error:
        unsafe = _mark_unsafe(known)
        named = f" What could be read names {', '.join(unsafe)}: do not load it." if unsafe else ""
        reason = "malformed pickle" if isinstance(error, LookupError) else " ".join(str(error).split()).split(". ")[0]
        raise CheckpointError(f"{path} is not a sound torch checkpoint: {reason.rstrip('.')}.{named}") from error
    return Scan(layout, root, _mark_unsafe(known))


def printable(text: str) -> str:
    """The text without what a file could steer a terminal with, or that no terminal can show."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def is_zip(path: Path) -> bool:
    """Whether torch takes the file for one of the zip layout: it looks at the first bytes only."""
    with path.open("rb") as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def _scan_sequence(file: IO[bytes], known: dict[str, Global]) -> tuple[str, Any]:
    first = _Machine(known).run(file)
    if type(first) is not int or first != _LEGACY_MAGIC:
        return "pickle", first
    _protocol, _system, root, _storages = (_Machine(known).run(file) for _ in range(4))
    return "legacy", root


def _zip_record(path: Path) -> bytes:
    reader = torch._C.PyTorchFileReader(str(path))  # torch.load's own: another might see another file in the same bytes
    if "constants.pkl" in reader.get_all_records():
        raise ValueError("it is a TorchScript archive; export the module's state_dict() with torch.save")
    return bytes(reader.get_record("data.pkl"))


def _mark_unsafe(known: dict[str, Global]) -> list[str]:
    """The names that torch.load(weights_only=True) refuses; marks the others as safe."""
    # torch tells what it allows only of a file, so it is handed one that holds nothing but the names.
    plain = [each for name, each in known.items() if name.isascii() and name.isprintable() and " " not in name]
    data = b"\x80\x02" + "".join(f"c{each.module}\n{each.qualname}\n" for each in plain).encode() + b"."
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    writer.write_record("data.pkl", data, len(data))
    writer.write_end_of_file()
    buffer.seek(0)
    refused = set(torch.serialization.get_unsafe_globals_in_checkpoint(buffer))
    for each in plain:
        each.is_safe = each.name not in refused
    return [name for name, each in known.items() if not each.is_safe]


class _Machine:
    """Follows one pickle. `known` collects the globals, by name."""

    def __init__(self, known: dict[str, Global]) -> None:
        self.known = known
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _PUSHES_ITS_ARGUMENT:
                self.stack.append(argument)
            else:
                self.follow(opcode.name, argument)
        raise ValueError("its pickle has no end")

    def follow(self, operation: str, argument: Any) -> None:
        stack = self.stack
        match operation:
            case "PROTO" | "FRAME" | "READONLY_BUFFER":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(operation == "NEWTRUE")
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_SET":
                stack.append(StandIn(self.find("builtins", "set")))
            case "MARK":
                self.below_marks.append(stack)
                self.stack = []
            case "POP_MARK":
                self.pop_marked()
            case "POP":
                self.pop_one()
            case "DUP":
                stack.append(stack[-1])
            case "LIST":
                self.push(self.pop_marked())
            case "TUPLE":
                self.push(tuple(self.pop_marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(operation[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "DICT":
                items = self.pop_marked()
                self.push({})
                self.put_pairs(items)
            case "FROZENSET":
                self.push(StandIn(self.find("builtins", "frozenset"), items=self.pop_marked()))
            case "APPEND":
                self.put_items([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self.put_items(self.pop_marked())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.put_pairs([key, value])
            case "SETITEMS":
                self.put_pairs(self.pop_marked())
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self.find(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                qualname, module = stack.pop(), stack.pop()
                stack.append(self.find(str(module), str(qualname)))
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(self.find("copyreg", f"extension_{argument}"))
            case "REDUCE":
                args, what = stack.pop(), stack.pop()
                stack.append(self.make(what, args))
            case "NEWOBJ":
                args, what = stack.pop(), stack.pop()
                stack.append(self.make(what, args, is_call=False))
            case "NEWOBJ_EX":
                named, args, what = stack.pop(), stack.pop(), stack.pop()
                stack.append(self.make(what, (*args, *dict(named).values()), is_call=False))
            case "OBJ":
                what, *given = self.pop_marked()
                self.push(self.make(what, tuple(given), is_call=False))
            case "INST":
                self.push(self.make(self.find(*argument.split(" ", 1)), tuple(self.pop_marked()), is_call=False))
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if not isinstance(target, StandIn):
                    raise ValueError(f"its pickle gives a state to a {type(target).__name__}")
                target.state = state
            case "PERSID" | "BINPERSID":
                reference = argument if operation == "PERSID" else stack.pop()
                is_class = isinstance(reference, tuple) and reference[:1] == ("module",) and len(reference) > 1
                stack.append(reference[1] if is_class else StandIn(Global("torch", "storage", is_safe=True)))
            case _:
                raise ValueError(f"its pickle uses {operation}, which torch never writes")

    def find(self, module: str, qualname: str) -> Global:
        """The one Global of this name, under the name that Python 3 gives it."""
        if (module, qualname) in NAME_MAPPING:
            module, qualname = NAME_MAPPING[module, qualname]
        else:
            module = IMPORT_MAPPING.get(module, module)
        module, qualname = printable(module), printable(qualname)
        return self.known.setdefault(f"{module}.{qualname}", Global(module, qualname))

    def make(self, what: Any, args: Any, is_call: bool = True) -> StandIn:
        """What stands for the result of calling `what`, or of making an object of that class."""
        if not isinstance(args, tuple):
            raise ValueError("its pickle calls something without a tuple of arguments")
        if isinstance(what, StandIn):
            what = Global(what.what.module, f"{what.what.qualname}(...)")
        if not isinstance(what, Global):
            raise ValueError(f"its pickle calls a {type(what).__name__}")
        if what.name == "copyreg._reconstructor" and args and isinstance(args[0], Global):
            return StandIn(args[0], is_call=False)
        if what.name in _COLLECTIONS and args and isinstance(args[0], list):
            return StandIn(what, args[1:], items=args[0])
        return StandIn(what, args, is_call)

    def put_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list | StandIn):
            raise ValueError(f"its pickle appends to a {type(target).__name__}")
        (target if isinstance(target, list) else target.items).extend(items)

    def put_pairs(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        pairs = zip(flat[::2], flat[1::2], strict=True)
        if isinstance(target, StandIn):
            target.pairs.extend(pairs)
        elif isinstance(target, dict):
            target.update((key if type(key) in _ATOMS else Key(key), value) for key, value in pairs)
        else:
            raise ValueError(f"its pickle sets items of a {type(target).__name__}")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_one(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.stack = self.below_marks.pop()

    def pop_marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.below_marks.pop()
        return items


def entries(value: Any) -> Iterator[tuple[Any, Any]] | None:
    """The keys and values of a dictionary or of what stands for one; None for anything else."""
    if isinstance(value, dict):
        return ((key.value if isinstance(key, Key) else key, item) for key, item in value.items())
    if isinstance(value, StandIn) and value.what.name in ("collections.OrderedDict", "collections.Counter"):
        return iter(value.pairs)
    return None
