"""Options of plugins: typed fields or parameters, converted from plain values and described in words and as schema.

The options of a dataclass are its fields; those of any other class or function are its parameters. Their types are
plain Python annotations, narrowed with ``Annotated[type, msgspec.Meta(...)]``. Nothing is coerced: ``"10"`` is not 10.
The only conversion is to ``pathlib.Path``: relative paths start at the folder of the file that names them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from hookline.engine.words import nearest, shortened

REQUIRED: Any = inspect.Parameter.empty
"""Default of an option that has none."""

Secret = Annotated[str, Meta(extra_json_schema={"writeOnly": True})]
"""Type of an option whose text is never written or printed: a password, a token, an address that contains one."""

_Type = TypeVar("_Type")
FromUser = Annotated[_Type, Meta(extra_json_schema={"readOnly": True})]
"""Type of an option that only the command line or a program may set, such as a program to run: ``FromUser[str]``.

No config file can, because somebody else may have written it; and it is not saved with a run.
"""

_BOUNDS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}", "multiple_of": "a multiple of {}"}
_LENGTHS = {"min_length": "at least {} long", "max_length": "at most {} long", "pattern": "matching {!r}"}
_PLAIN_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
    list: "a list",
    dict: "a table",
    type(None): "nothing",
    Any: "any value",
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a plugin.

    Attributes:
        name: Name of the field or parameter, which is the key in a config.
        type: Its resolved annotation.
        default: Its default; ``REQUIRED`` if it has none.
    """

    name: str
    type: Any
    default: Any = REQUIRED

    @property
    def is_required(self) -> bool:
        """Whether a config must set it."""
        return self.default is REQUIRED

    @property
    def is_secret(self) -> bool:
        """Whether it is a ``Secret``, or contains one."""
        return self._is_marked("writeOnly")

    @property
    def is_from_user(self) -> bool:
        """Whether it is ``FromUser``, or contains one: no file may set it."""
        return self._is_marked("readOnly")

    def _is_marked(self, keyword: str) -> bool:
        return any((meta.extra_json_schema or {}).get(keyword) for meta in _metas(self.type))

    @property
    def description(self) -> str:
        """Its description, from ``Meta(description=...)``."""
        return next((meta.description for meta in _metas(self.type) if meta.description), "")

    @property
    def expected(self) -> str:
        """The values that it takes, in words: ``an integer >= 1``."""
        return describe(self.type)

    def convert(self, value: Any, folder: Path) -> Any:
        """Convert ``value`` to the option's type; relative paths start at ``folder``.

        Raises:
            ValueError: When it is not of that type.
        """
        try:
            return _convert(value, self.type, folder)
        except msgspec.ValidationError as error:
            where = str(error).partition(" - at `$")[2].rstrip("`")
            at = f" (at {self.name}{where})" if where else ""
            got = "a secret that is not" if self.is_secret else f"{shown(value)}{at}{_near(self.type, value)}"
            raise ValueError(f"expected {self.expected}, got {got}") from None

    def schema(self) -> dict[str, Any]:
        """Return the option's JSON Schema (draft-07 keywords), with description and default."""
        raw = msgspec.json.schema(self.type, schema_hook=_schema_of_path)
        schema: dict[str, Any] = _draft_7(raw, raw.pop("$defs", {}))
        if self.description:
            schema["description"] = self.description
        if not self.is_required and is_plain(self.default):
            schema["default"] = plain(self.default)
        return schema


def options_of(target: Callable[..., Any], supplied: Collection[str] = ()) -> tuple[Option, ...]:
    """Return the options of a class or function, in order, without the ``supplied`` parameters.

    Raises:
        TypeError: When an annotation cannot be resolved, or a parameter is positional-only.
    """
    if dataclasses.is_dataclass(target):
        defaults = {field.name: _field_default(field) for field in dataclasses.fields(target) if field.init}
        hints = _field_types(target, [name for name in defaults if name not in supplied])
    else:
        parameters = [p for p in inspect.signature(target).parameters.values() if _is_settable(p)]
        defaults = {parameter.name: parameter.default for parameter in parameters}
        function = target.__init__ if inspect.isclass(target) else target
        hints = _parameter_types(function, [name for name in defaults if name not in supplied])
    return tuple(Option(name, _supported(hint), defaults[name]) for name, hint in hints.items())


def plain(value: Any, path_text: Callable[[Path], str] = str) -> Any:
    """Return ``value`` as TOML and JSON can hold it: tuples as lists, paths as text.

    >>> plain({"hidden": (64, 64), "path": Path("a.csv")})
    {'hidden': [64, 64], 'path': 'a.csv'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, path_text) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, path_text) for item in value]
    return path_text(value) if isinstance(value, Path) else value


def lasting(value: Any) -> Any:
    """Return ``value`` as ``plain`` does, with absolute paths, so that it does not depend on the current folder."""
    return plain(value, lambda path: str(path.absolute()))


def copied(value: Any) -> Any:
    """Return ``value`` with its dicts, lists, tuples and sets copied; other objects are shared."""
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | set | frozenset) or type(value) is tuple:
        return type(value)(copied(item) for item in value)
    return value


def is_plain(value: Any) -> bool:
    """Whether TOML and JSON can hold ``value`` as ``plain`` returns it."""
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return isinstance(value, str | int | float | Path)


def describe(annotation: Any) -> str:
    """Describe the values that a type takes.

    >>> describe(typing.Annotated[int, Meta(ge=1)] | typing.Literal["all"])
    "an integer >= 1 or 'all'"
    >>> describe(tuple[float, ...])
    'a list of numbers'
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return describe(arguments[0]) + "".join(map(_limits, annotation.__metadata__))
    if origin is typing.Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(part) for part in arguments if part is not type(None))
    if origin in (list, tuple, set, frozenset, Sequence):
        return _describe_list(arguments, is_tuple=origin is tuple)
    if origin in (dict, Mapping):
        return f"a table whose values are {describe(arguments[1])}" if _choices(annotation) else "a table"
    return _PLAIN_NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _describe_list(arguments: tuple[Any, ...], *, is_tuple: bool) -> str:
    if not arguments:
        return "a list"
    if is_tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}: " + ", ".join(map(describe, arguments))
    article, _, rest = describe(arguments[0]).replace("one of", "any of").partition(" ")
    if article in ("a", "an"):
        noun, _, limits = rest.partition(" ")
        return f"a list of {noun}s {limits}".rstrip()
    return f"a list of {article} {rest}".rstrip()


def _limits(meta: Any) -> str:
    if not isinstance(meta, Meta):
        return ""
    bounds = [
        text.format(_number(bound)) for name, text in _BOUNDS.items() if (bound := getattr(meta, name)) is not None
    ]
    lengths = [text.format(bound) for name, text in _LENGTHS.items() if (bound := getattr(meta, name)) is not None]
    if meta.min_length is not None and meta.min_length == meta.max_length:
        lengths[:2] = [f"of length {meta.min_length}"]
    return (" " + " and ".join(bounds) if bounds else "") + (", " + " and ".join(lengths) if lengths else "")


def _number(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def _metas(annotation: Any) -> list[Meta]:
    """Return the ``Meta`` annotations of a type and of its parts."""
    if typing.get_origin(annotation) is typing.Annotated:
        return [mark for mark in annotation.__metadata__ if isinstance(mark, Meta)] + _metas(annotation.__origin__)
    return [meta for part in typing.get_args(annotation) for meta in _metas(part)]


def _choices(annotation: Any) -> list[str]:
    """Return the literal strings that a type takes, also within unions and lists."""
    if typing.get_origin(annotation) is typing.Literal:
        return [word for word in typing.get_args(annotation) if isinstance(word, str)]
    return [word for part in typing.get_args(annotation) if part is not Ellipsis for word in _choices(part)]


def _near(annotation: Any, value: Any) -> str:
    choices = _choices(annotation)
    words = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    wrong = [word for word in words if isinstance(word, str) and word not in choices]
    matches = [match for word in wrong if (match := nearest(word, choices))]
    return f"; did you mean {', '.join(map(repr, matches))}?" if matches else ""


def shown(value: Any) -> str:
    """Return the representation of ``value`` for a message, cut to 80 characters."""
    if isinstance(value, bool):
        return str(value).lower()
    return shortened(repr(plain(value) if isinstance(value, Mapping | Sequence) else value), 80)


def _convert(value: Any, annotation: Any, folder: Path) -> Any:
    try:
        return msgspec.convert(value, annotation, dec_hook=lambda kind, raw: _decode(kind, raw, folder))
    except TypeError:
        # msgspec does not support unions of a path and other types, so each part is tried.
        for part in sorted(typing.get_args(annotation), key=lambda part: part is Path):
            with contextlib.suppress(msgspec.ValidationError):
                return _convert(value, part, folder)
        raise msgspec.ValidationError(f"Expected `{annotation}`") from None


def _decode(kind: type, raw: Any, folder: Path) -> Any:
    if kind is Path and isinstance(raw, str | Path):
        return folder / raw
    raise msgspec.ValidationError(f"Expected `{kind.__name__}`")


def _schema_of_path(kind: type) -> dict[str, Any]:
    if kind is Path:
        return {"type": "string"}
    raise NotImplementedError


def _draft_7(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema of msgspec (draft 2020-12) in draft-07 form, with definitions inlined."""
    if isinstance(schema, list):
        return [_draft_7(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _draft_7(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    converted = {key: _draft_7(value, definitions) for key, value in schema.items()}
    if "prefixItems" in converted:
        converted |= {"items": converted.pop("prefixItems"), "additionalItems": False}
    return converted


def _supported(annotation: Any) -> Any:
    """Return the part of a type that a config can express: ``float`` of ``float | Tensor``; ``Any`` if none."""
    try:
        msgspec.json.schema(annotation, schema_hook=_schema_of_path)
    except TypeError:
        if typing.get_origin(annotation) in (typing.Union, types.UnionType):
            parts = [part for part in map(_supported, typing.get_args(annotation)) if part is not Any]
            if parts:
                return typing.Union[tuple(parts)]  # noqa: UP007 - the parts are known only at run time
        return Any
    return annotation


def _field_default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else REQUIRED


def _is_settable(parameter: inspect.Parameter) -> bool:
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise TypeError(f"its parameter {parameter.name!r} is positional-only, but options are passed by name")
    return parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _field_types(target: Any, names: Sequence[str]) -> dict[str, Any]:
    # A field's annotation refers to names in the module of the class that declares it.
    owners = {name: next(c for c in target.__mro__ if name in inspect.get_annotations(c)) for name in names}
    annotations = {name: inspect.get_annotations(owner)[name] for name, owner in owners.items()}
    return {name: _resolved(annotations[name], vars(sys.modules[owners[name].__module__])) for name in names}


def _parameter_types(function: Any, names: Sequence[str]) -> dict[str, Any]:
    annotations = inspect.get_annotations(function) if inspect.isfunction(function) else {}
    return {name: _resolved(annotations.get(name, Any), getattr(function, "__globals__", {})) for name in names}


def _resolved(annotation: Any, scope: dict[str, Any]) -> Any:
    # Each separately: the annotations of other parameters and of the result need not exist at run time.
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, scope, include_extras=True)["it"]
    except (NameError, AttributeError) as error:
        raise TypeError(f"an annotation cannot be resolved: {error}") from error
