"""A stack machine that follows a pickle and makes nothing of what it asks for.

It knows no Python objects but plain containers: a class or function stays a name, a call to it stays a `StandIn`.
Nothing is imported, called or hashed at a file's wish.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass, field
from typing import IO, Any

from esper.printing import printable

_MAX_TUPLE_DEPTH = 1000
_COLLECTIONS = ("builtins.set", "builtins.frozenset", "collections.deque")
CALLED = "(...)"  # after the name of what is called, for what the call returned
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
    """A class or function by name. `is_safe`: torch.load(weights_only=True) knows it; `is_called`: by the pickle."""

    module: str
    qualname: str
    is_safe: bool = False
    is_called: bool = False

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


class PickleMachine:
    """Follows one pickle. `known` collects the globals, by name."""

    def __init__(self, known: dict[str, Global]) -> None:
        self.known = known
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.depths: dict[int, int] = {}  # of tuples, by id
        self.protocol = 0  # as the pickle says itself; those of 0 and 1 do not

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
            case "PROTO":
                self.protocol = argument
            case "FRAME" | "READONLY_BUFFER":
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
                self.push(self.join(self.pop_marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(operation[-1])
                stack[-count:] = [self.join(stack[-count:])]
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
            what = Global(what.what.module, what.what.qualname + CALLED)
        if not isinstance(what, Global):
            raise ValueError(f"its pickle calls a {type(what).__name__}")
        what.is_called |= is_call
        if what.name == "copyreg._reconstructor" and args and isinstance(args[0], Global):
            return StandIn(args[0], is_call=False)
        if what.name in _COLLECTIONS and args and isinstance(args[0], list):
            return StandIn(what, args[1:], items=args[0])
        return StandIn(what, args, is_call)

    def join(self, items: list[Any]) -> tuple[Any, ...]:
        """A tuple of these. One nested without end would crash Python when it is hashed, which torch.load may do."""
        joined = tuple(items)
        depth = 1 + max((self.depths.get(id(item), 0) for item in items if isinstance(item, tuple)), default=0)
        if depth > _MAX_TUPLE_DEPTH:
            raise ValueError(f"its pickle nests tuples deeper than {_MAX_TUPLE_DEPTH} levels")
        self.depths[id(joined)] = depth
        return joined

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
