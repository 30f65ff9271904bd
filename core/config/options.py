"""Strict conversion between attrs option classes and the user's text: flags, TOML, JSON.

An options class is a frozen attrs class. Its fields have a default, one line of help in ``metadata["help"]``, and a
type among bool, int, float, str, Literal, Path and unions of those.
"""

from __future__ import annotations

import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs

from mpcc.core.errors import InvalidInput, PluginError, unknown_name
from mpcc.core.system.file_names import address_of, path_of

__all__ = ["BARE", "convert", "describe", "fields", "make", "option", "plain"]

T = TypeVar("T")


class Bare:
    """The value of a flag that was typed without one: true for a bool, not valid for all other types."""

    def __repr__(self) -> str:
        return "nothing"


BARE = Bare()


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    validator: Any = None,
    **metadata: Any,
) -> Any:
    """Declare an option: a field of an attrs class.

    Arguments:
        default: Its default.
        help: One line.
        least: The smallest valid value; it and the other bounds hold for numbers, not for a word.
        most: The largest valid value.
        above: A bound that a value must be above.
        below: A bound that a value must be below.
        validator: An attrs validator for other conditions.
        metadata: Further metadata of the field.
    """
    bounds = {attrs.validators.ge: least, attrs.validators.le: most}
    bounds |= {attrs.validators.gt: above, attrs.validators.lt: below}
    checks: list[Any] = [check(bound) for check, bound in bounds.items() if bound is not None]
    if isinstance(default, str):
        checks = [_of_numbers(check) for check in checks]
    checks += [validator] if validator else []
    check_all = attrs.validators.and_(*checks) if checks else None
    optional = attrs.validators.optional(check_all) if check_all and default is None else check_all
    return attrs.field(default=default, validator=optional, metadata={"help": help, **metadata})


def _of_numbers(check: Any) -> Any:
    """Return a validator that leaves texts alone: an option may take a number or a word."""

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, str):
            check(instance, attribute, value)

    return validate


@functools.cache
def fields(cls: type | None) -> dict[str, attrs.Attribute[Any]]:
    """Return the fields of an options class by name, with resolved types; no fields for None.

    Raises:
        PluginError: If it is not an attrs class, or a field lacks a default or a type.
    """
    if cls is None:
        return {}
    if not attrs.has(cls):
        raise PluginError(f"options class {cls.__module__}.{cls.__qualname__} is not an attrs class")
    try:
        attrs.resolve_types(cls)
    except NameError as error:
        raise PluginError(f"options class {cls.__module__}.{cls.__qualname__}: {error}") from error
    by_name = {field.name: field for field in attrs.fields(cls) if field.init}
    for field in by_name.values():
        if field.default is attrs.NOTHING or field.type is None:
            raise PluginError(f"option {cls.__qualname__}.{field.name} needs a type and a default")
    return by_name


def describe(kind: Any) -> str:
    """Return a type in words, e.g. ``a whole number`` or ``one of train, test``."""
    if get_origin(kind) is tuple:
        return describe(get_args(kind)[0])
    if get_origin(kind) is Literal:
        values = [str(value) for value in get_args(kind)]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in get_args(kind) if arg is not type(None))
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", Path: "a path"}
    return names.get(kind, str(getattr(kind, "__name__", kind)))


def _whole(value: Any, _: type) -> int:
    if isinstance(value, str):
        return int(value.replace("_", ""))
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(value)
    return value


def _number(value: Any, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _truth(value: Any, _: type) -> bool:
    if value is BARE:
        return True
    if isinstance(value, str) and value.lower() in {"true", "yes", "on", "1", "false", "no", "off", "0"}:
        return value.lower() in {"true", "yes", "on", "1"}
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _text(value: Any, _: type) -> str:
    # For the system, a null character ends a text. Bytes that are not UTF-8 arrive as surrogates, which are no text.
    if not isinstance(value, str) or "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(value)
    return value


def _path(value: Any, _: type) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError(value)
    # Path("") is the current folder, but an empty text usually comes from an unset variable in a script.
    return path_of(str(value))


def _choice(value: Any, kind: Any) -> Any:
    for option in get_args(kind):
        if (value == option and type(value) is type(option)) or value == str(option):
            return option
    raise ValueError(value)


def _union(value: Any, kind: Any) -> Any:
    if value is None and type(None) in get_args(kind):
        return None
    # The most specific type comes first and text last: "all" becomes a choice, "5" a number.
    order = [int, float, bool, Path, str]
    args = [arg for arg in get_args(kind) if arg is not type(None)]
    for arg in sorted(args, key=lambda arg: order.index(arg) if arg in order else -1):
        try:
            return _converter().structure(value, arg)
        except (ValueError, TypeError):
            continue
    raise ValueError(value)


def _origin(kind: Any) -> Any:
    return get_origin(kind)


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False)
    # cattrs turns 1.5 into the int 1 and "no" into the bool True; every plain type is converted strictly instead.
    for kind, hook in {int: _whole, float: _number, bool: _truth, str: _text, Path: _path}.items():
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_func(lambda kind: _origin(kind) is Literal, _choice)
    converter.register_structure_hook_func(lambda kind: _origin(kind) in (Union, types.UnionType), _union)
    converter.register_unstructure_hook(Path, address_of)
    return converter


def convert(value: Any, field: attrs.Attribute[Any], where: str) -> Any:
    """Convert one value to the type of a field and validate it.

    Arguments:
        value: Text from a flag, or a value from TOML or JSON.
        field: The field of the options class, with its type resolved.
        where: The user's name for it, e.g. ``--prior.scale-floor``.

    Raises:
        InvalidInput: With the option, the value and what was expected.
    """
    result = _structured(value, field, lambda _: where)
    _validate(result, field, lambda _: where)
    return result


def _structured(value: Any, field: attrs.Attribute[Any], where: Callable[[str], str]) -> Any:
    try:
        return _converter().structure(value, typing.cast(Any, field.type))
    except (ValueError, TypeError, OverflowError) as error:
        choices = [str(arg) for arg in get_args(field.type)] if get_origin(field.type) is Literal else []
        if choices and value is not BARE:
            raise unknown_name(f"value for {where(field.name)}:", str(value), choices) from error
        nearest = number_meant(value, field)
        hint = "" if nearest is None else f" (nearest valid choice: {nearest:g})"
        raise InvalidInput(f"{where(field.name)}: expected {describe(field.type)}, got {value!r}{hint}") from error


def number_meant(value: Any, field: attrs.Attribute[Any]) -> float | None:
    """Return the number that a text with a unit stands for, or None.

    Arguments:
        value: What the user has given, such as ``40%`` or ``1h``.
        field: A field of type float. A length of time is converted if the field's metadata has its ``seconds``, the
            length of its own unit.
    """
    units = {"%": 0.01}
    if own := field.metadata.get("seconds"):
        units |= {"s": 1 / own, "min": 60 / own, "h": 3600 / own}
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(%|s|min|h)", value) if isinstance(value, str) else None
    if found is None or found[2] not in units or float not in (field.type, *get_args(field.type)):
        return None
    number = float(found[1]) * units[found[2]]
    try:
        _validate(number, field, str)
    except InvalidInput:
        return None
    return number


def _validate(value: Any, field: attrs.Attribute[Any], where: Callable[[str], str]) -> None:
    if field.validator is None:
        return
    try:
        field.validator(None, field, value)
    except (ValueError, TypeError) as error:
        # Validators may attach the field and the value as further arguments; the message comes first.
        message = str(error.args[0] if error.args else error).replace(repr(field.name), "the value")
        raise InvalidInput(f"{where(field.name)}: {message}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(f"{where(field.name)}: its validator fails on {value!r}: {reason}") from error


def make(cls: type[T], given: Mapping[str, Any], kind: str, where: Callable[[str], str] = str) -> T:
    """Make an options object from the user's text.

    Arguments:
        cls: The options class.
        given: Texts from flags, and values from TOML or JSON, by the name of the field.
        kind: The owner of the options, for errors, e.g. ``prior gmm``.
        where: Returns the user's name for a field, e.g. ``--prior.scale-floor``.

    Raises:
        InvalidInput: If a name is unknown, a value is not valid, or the values contradict each other.
    """
    known = fields(cls)  # type: ignore[arg-type]  # a class can be hashed
    for name in given:
        if name not in known:
            raise unknown_name(f"option of {kind}:", name, known)
    values = {name: _structured(value, known[name], where) for name, value in given.items()}
    try:
        return cls(**values)
    except Exception as error:
        # Each value is now checked by itself to find the one that the class has refused.
        for name, value in values.items():
            _validate(value, known[name], where)
        if isinstance(error, (ValueError, TypeError)):
            raise InvalidInput(f"options of {kind}: {error.args[0] if error.args else error}") from error
        raise PluginError(f"options of {kind}: {type(error).__name__}: {error}") from error


def plain(options: Any) -> dict[str, Any]:
    """Return an options object as plain values for TOML and JSON; fields that are None are left out."""
    values: dict[str, Any] = _converter().unstructure(options)
    return {name: value for name, value in values.items() if value is not None}
