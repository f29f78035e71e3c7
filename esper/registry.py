"""Parts by name: the one mechanism behind tasks, hosts, policies, learners, rewards, sinks and blueprints.

A part has two halves. What must be known before anything heavy is loaded is declared: its name, its configuration, and
where its builder is. The builder registers itself under the same name, there; its module is imported when such a part
is built for the first time. Where a module is loaded anyway, registering is all there is to it:

    POLICIES.declare("scheduled", ScheduledPolicyConfig, "esper.tamiyo.scheduled:build_scheduled")

    @POLICIES.register("scheduled", ScheduledPolicyConfig)
    def build_scheduled(config, catalogue, slots): ...

    controller = POLICIES.build(config, catalogue=catalogue, slots=slots, seed=seed)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, Generic, ParamSpec, TypeVar, cast

from esper.checks import did_you_mean
from esper.errors import ConfigError, EsperError
from esper.factories import own_code

ConfigT = TypeVar("ConfigT")
BuiltT = TypeVar("BuiltT")
P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is known of one part.

    config: of what class its configuration is. target: "module:function", its builder's place; empty where that is in a
    room above, which registers it once it is loaded. builder: None until then.
    """

    name: str
    config: type
    target: str = ""
    builder: Callable[..., Any] | None = None

    @property
    def package(self) -> str:
        """The outermost package of what builds it; empty where that is not known yet."""
        return self.target.partition(":")[0].partition(".")[0]

    @property
    def is_own(self) -> bool:
        """Whether it is a user's own part, and not built in."""
        return self.package not in ("", "esper")


class Registry(Mapping[str, type[ConfigT]], Generic[ConfigT, BuiltT]):
    """Name -> class of configuration, in the order in which they became known; `build` makes the part itself.

    Args:
        kind: what the parts are, as on the command line: "policy" of policy=heuristic.
        parts: where they are kept, for a view of some that are there already.
        scope: what else a message says of where a name is taken.
        error: what is raised.
    """

    def __init__(
        self,
        kind: str,
        parts: dict[str, Any] | None = None,
        scope: str = "",
        error: type[EsperError] = ConfigError,
    ) -> None:
        self.kind, self.scope, self.error = kind, scope, error
        self.parts: dict[str, Part] = {} if parts is None else parts

    def __getitem__(self, name: str) -> type[ConfigT]:
        return self.parts[name].config

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def declare(self, name: str, config: type[ConfigT], target: str = "") -> None:
        """Make a part known by name and configuration alone; its builder registers itself, in `target`'s module.

        Where that was imported first, its builder is there already.
        """
        known = self.parts.get(name)
        if known is None or known.builder is None or (known.config, known.target) != (config, target):
            self.add(Part(name=name, config=config, target=target))

    def register(self, name: str, config: type[ConfigT]) -> Callable[[Callable[P, BuiltT]], Callable[P, BuiltT]]:
        """Decorator for a builder: a function of the configuration and of whatever else its parameters name.

        Raises: the registry's error where the name is taken, or declared otherwise.
        """

        def keep(builder: Callable[P, BuiltT]) -> Callable[P, BuiltT]:
            self.add(Part(name=name, config=config, target=place(builder), builder=builder))
            return builder

        return keep

    def add(self, part: Part) -> None:
        """Take in a part, or the builder of one that is declared; what a declaration leaves open comes with it."""
        known = self.parts.get(part.name)
        if known is not None and part.is_own and not known.is_own:
            raise self.error(f"{self.kind} {part.name!r} of {part.target}: one{self.scope} is built in; rename yours")
        if known is not None and (known.builder is not None or known.target not in ("", part.target)):
            raise self.error(f"{self.kind} {part.name!r} is registered twice{self.scope}: rename one")
        for field in fields(known) if known is not None else ():
            declared, own = getattr(known, field.name), getattr(part, field.name)
            if declared not in (field.default, own):
                raise self.error(f"{part.target}: {field.name}={own!r}, but {declared!r} where it is declared")
        self.parts[part.name] = part

    def builder(self, name: str) -> Callable[..., BuiltT]:
        """The builder of a part; its module is imported where that has not been done yet.

        Raises: the registry's error, with all names and the nearest, where there is no such part.
        """
        if name not in self.parts:
            known = f"expected one of {', '.join(sorted(self))}{did_you_mean(name, self)}"
            raise self.error(f"{self.kind}.name={name!r}: {known}")
        part = self.parts[name]
        if part.builder is None and part.target:
            import_module(part.target.partition(":")[0])
            part = self.parts[name]
        if part.builder is None:
            raise self.error(f"{self.kind} {name!r}: {part.target or 'its room'} has not registered its builder")
        return part.builder

    def build(self, config: ConfigT, /, name: str = "", **runtime: Any) -> BuiltT:
        """The part that the configuration names.

        Args:
            name: of the part, where the configuration does not carry it.
            runtime: all that a builder may need beside its configuration; it gets what its parameters name.

        Raises: the registry's error, where there is no such part, or it has another configuration.
        """
        name = name or cast(str, getattr(config, "name", ""))
        builder = self.builder(name)
        if not isinstance(config, self[name]):
            expected = f"expected a {self[name].__name__}, and this is a {type(config).__name__}"
            raise self.error(f"{self.kind}.name={name!r}: {expected}")
        given = taken(builder, runtime)
        try:
            signature(builder).bind(config, **given)
        except TypeError as error:
            offered = f", and what it names of {', '.join(runtime)}" if runtime else ""
            takes = f"it gets its configuration{offered}"
            raise self.error(f"{self.kind} {name!r}: {place(builder)}: {error}; {takes}") from None
        if not self.parts[name].is_own:
            return builder(config, **given)
        with own_code(f"{self.kind} {name!r}", self.error):
            return builder(config, **given)


def taken(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keywords that the function has parameters for."""
    parameters = signature(function).parameters
    takes_all = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    return {key: value for key, value in offered.items() if takes_all or key in parameters}


def place(builder: Callable[..., Any]) -> str:
    """Where a function is defined, as "module:function"."""
    return f"{builder.__module__}:{builder.__qualname__}"
