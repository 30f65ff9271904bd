"""Options that are one of a few values: a class checks them itself, also when Python code makes an object of it.

An options class asks for that with ``@attrs.frozen(field_transformer=check_choices)``. Flags and files are checked
before an object is made.
"""

from __future__ import annotations

import functools
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from mpcc.core.errors import unknown_name

__all__ = ["check_choices"]


def check_choices(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Return the fields of a class; those whose type has a ``Literal`` refuse all other values.

    Example:
        >>> @attrs.frozen(field_transformer=check_choices)
        ... class Options:
        ...     kind: Literal["a", "b"] = "a"
        >>> Options(kind="c")
        Traceback (most recent call last):
        mpcc.core.errors.InvalidInput: unknown value for kind: 'c': expected one of a, b
    """
    return [field.evolve(validator=_with_choices(field)) if "Literal" in str(field.type) else field for field in fields]


def _with_choices(field: attrs.Attribute[Any]) -> Any:
    return _choice if field.validator is None else attrs.validators.and_(_choice, field.validator)


def _choice(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
    """Refuse a value that does not have the type of its field.

    Raises:
        InvalidInput: With the value and the valid ones.
    """
    owner: Any = type(instance)
    kind = _types(owner)[field.name] if instance is not None else field.type
    if not _fits(value, kind):
        raise unknown_name(f"value for {field.name}:", str(value), map(str, _choices(kind)))


@functools.cache
def _types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in get_args(kind))
    if kind is float and type(value) is int:
        return True
    return not isinstance(kind, type) or isinstance(value, kind)


def _choices(kind: Any) -> list[Any]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for arg in get_args(kind) for choice in _choices(arg)]
