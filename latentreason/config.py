r"""Configurations: a TOML file becomes a frozen dataclass, and the dataclass becomes a TOML file again.

This file knows nothing about any particular configuration: annotations say what a key may hold. Example::

    @dataclass(frozen=True)
    class Sampling:
        temperature: float = 1.0
        limit: int | None = None

    load_config(Sampling, "run.toml")            # a file that says: temperature = 0.6
    dump_config(Sampling(0.6))                   # 'temperature = 0.6\n'
    from_dict(Sampling, {"temprature": 0.6})     # Unknown config key 'temprature'. Did you mean 'temperature'? Known: limit, temperature.

Understood annotations: str, int, float, bool, Path, Literal, `X | None` and other unions, list, tuple, dict[str, X],
dataclasses, Any. TOML has no null: a key that is None is left out, so its default must be None too (or absent).
A union takes the exact type of the value first, then the first member that fits: two dataclasses in one union need different keys.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from latentreason.errors import InvalidInput, UnknownName, unknown_name

T = TypeVar("T")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def from_dict(cls: type[T], mapping: Mapping[str, Any]) -> T:
    """An instance of the dataclass `cls` from nested plain values, as they come out of TOML or of a manifest.

    An int is taken for a float, a list for a tuple, None or nothing for an optional key; no other conversion is made.

    Raises:
        UnknownName: a key that `cls` does not have; names the nearest key and the dotted path.
        InvalidInput: a missing key or a value of another type; names the dotted path, the expected type and the value.
    """
    return cast(T, _dataclass(cls, mapping, ""))


def load_config(cls: type[T], path: str | Path) -> T:
    """An instance of the dataclass `cls` from a TOML file.

    Raises:
        UnknownName, InvalidInput: as `from_dict`, with the file named in front; also for a file that is missing or not TOML.
    """
    try:
        mapping = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"Cannot read config file {path}: {error.strerror}. Fix: check the path.") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise InvalidInput(f"Config file {path} is not TOML: {error}. Fix: correct that line.") from error
    try:
        return from_dict(cls, mapping)
    except (UnknownName, InvalidInput) as error:
        raise type(error)(f"{path}: {error}") from error


def dump_config(obj: Any) -> str:
    """The TOML text of a dataclass instance; `load_config` of that text gives an equal instance.

    Raises:
        InvalidInput: None where the default is another value, or a value that TOML has no word for.
    """
    if not is_dataclass(obj) or isinstance(obj, type):
        raise InvalidInput(f"dump_config writes a dataclass instance, found {_shown(obj)}.")
    return "\n".join(_table(_plain(obj, ""), "")).strip("\n") + "\n"


# --- reading ---------------------------------------------------------------------------------------------------------


def _dataclass(cls: Any, value: Any, path: str) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise _wrong(path or cls.__name__, _expected(cls), value)
    known = {f.name: f for f in fields(cls) if f.init}
    for key in value:
        if key not in known:
            raise unknown_name("config key", _join(path, str(key)), [_join(path, name) for name in known])
    hints = get_type_hints(cls)
    found = {name: _convert(hints[name], value[name], _join(path, name)) for name in known if name in value}
    for name, field in known.items():
        if name in found or _default(field) is not MISSING:
            continue
        if NoneType not in get_args(hints[name]):
            raise InvalidInput(f"Config key {_join(path, name)!r} is missing. Fix: give it {_expected(hints[name])}.")
        found[name] = None  # how `dump_config` writes None
    return cls(**found)


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as annotation `hint` wants it. Raises InvalidInput or UnknownName with the dotted path."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _union(hint, args, value, path)
    if origin is Literal:
        for choice in args:
            if type(choice) is type(value) and choice == value:  # True is not the literal 1
                return choice
    elif is_dataclass(hint):
        return _dataclass(hint, value, path)
    elif hint is float and (_is_number(value) or value in ("Infinity", "-Infinity")):  # so do manifests spell it
        return float(value)
    elif hint in (str, int, bool, NoneType) and type(value) is hint:  # not isinstance: True is no int
        return value
    elif hint is Path and isinstance(value, str | PurePath):
        return Path(value)
    elif (origin or hint) in (dict, Mapping) and isinstance(value, Mapping):
        item = args[1] if args else Any
        return {key: _convert(item, each, _join(path, str(key))) for key, each in value.items()}
    elif (origin or hint) in (list, tuple) and isinstance(value, list | tuple):
        if (origin or hint) is list or not args or args[-1] is Ellipsis:
            args = (args[0] if args else Any,) * len(value)
        if len(args) == len(value):
            return (origin or hint)(_convert(arg, each, f"{path}[{i}]") for i, (arg, each) in enumerate(zip(args, value, strict=True)))
    raise _wrong(path, _expected(hint), value)


def _union(hint: Any, members: tuple[Any, ...], value: Any, path: str) -> Any:
    others = [member for member in members if member is not NoneType]
    if value is None and len(others) < len(members):
        return None
    if len(others) == 1:  # the usual `X | None`: the error of X says more than that of the union
        return _convert(others[0], value, path)
    for member in sorted(others, key=lambda m: m is not type(value)):  # 1 stays an int in `float | int`
        try:
            return _convert(member, value, path)
        except (InvalidInput, UnknownName):
            continue
    raise _wrong(path, _expected(hint), value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _default(field: Field[Any]) -> Any:
    """The default of a field; MISSING where it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _wrong(path: str, expected: str, value: Any) -> InvalidInput:
    return InvalidInput(f"Config key {path!r} must be {expected}, found {_shown(value)}.")


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def _expected(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if is_dataclass(hint):
        return f"a table ({getattr(hint, '__name__', hint)})"
    return hint.__name__ if type(hint) is type else str(hint).replace("typing.", "")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


# --- writing ---------------------------------------------------------------------------------------------------------


def _plain(value: Any, path: str) -> Any:
    """`value` in the types that `_inline` and `_table` can write."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = {f.name: (f, getattr(value, f.name)) for f in fields(value) if f.init}
        for name, (field, each) in kept.items():
            if each is None and _default(field) not in (None, MISSING):
                raise InvalidInput(f"Config key {_join(path, name)!r} is None, and TOML has no null. Fix: make None its default.")
        return {name: _plain(each, _join(path, name)) for name, (_, each) in kept.items() if each is not None}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(each, _join(path, key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, f"{path}[{i}]") for i, each in enumerate(value)]
    if isinstance(value, np.generic):
        return _plain(value.item(), path)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, str | int | float):
        return value
    raise InvalidInput(f"Config key {path!r} holds {_shown(value)}, which TOML cannot hold. Fix: use str, int, float, bool, list or dict.")


def _table(table: dict[str, Any], path: str) -> list[str]:
    """Lines of a table: its own keys first, because a [header] ends them."""
    lines = [f"{_key(key)} = {_inline(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            header = _join(path, _key(key))
            lines += ["", f"[{header}]", *_table(value, header)]
    return lines


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _quoted(key)


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML forbids raw
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
