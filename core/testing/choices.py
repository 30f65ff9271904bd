"""Each choice of a plugin's options: a fault may hide behind a value that is not the default."""

from __future__ import annotations

import contextlib
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from mpcc.core.config import options as config_options
from mpcc.core.errors import InvalidInput
from mpcc.core.testing.cases import SizeRefused
from mpcc.core.testing.report import Finding, Report, counted

__all__ = ["CHOICES", "examine_choices", "other_choices"]

# An options class refuses values by a ValueError, and a plugin by an InvalidInput.
REFUSALS = (InvalidInput, SizeRefused, ValueError)
# The name of the law.
CHOICES = "each choice that its options offer fulfils the laws, too"


def other_choices(options: Any) -> dict[str, list[Any]]:
    """Return the values of each option that is a Literal or a bool, without its present value and `departures`.

    Example:
        >>> from mpcc.core.mixture_options import MixtureOptions
        >>> other_choices(MixtureOptions())
        {'locations': ['normal', 'uniform'], 'weights': ['trainable'], 'input_map': ['asinh']}
    """
    if options is None:
        return {}
    found = {}
    cls: Any = type(options)
    for name, field in config_options.fields(cls).items():
        left_out = (getattr(options, name), *field.metadata.get("departures", ()))
        others = [value for value in values_of(field.type) if not any(same(value, each) for each in left_out)]
        if others:
            found[name] = others
    return found


def departures(options: Any) -> list[str]:
    """Return the choices that break the contract on purpose, as the metadata of their options say."""
    cls: Any = None if options is None else type(options)
    return [
        f"{name} = {value}"
        for name, field in config_options.fields(cls).items()
        for value in field.metadata.get("departures", ())
    ]


def same(value: Any, other: Any) -> bool:
    """Tell whether two values are equal and of one type: 1 is no True."""
    return bool(value == other) and type(value) is type(other)


def values_of(kind: Any) -> list[Any]:
    """Return the values of a type that has a few: those of a Literal, a bool, or a union with a Literal."""
    if kind is bool:
        return [False, True]
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return [value for arg in get_args(kind) if get_origin(arg) is Literal for value in get_args(arg)]
    return []


def rows(choices: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield few sets of values that hold each choice once.

    Example:
        >>> list(rows({"a": [1, 2], "b": [True]}))
        [{'a': 1, 'b': True}, {'a': 2}]
    """
    for values in itertools.zip_longest(*choices.values(), fillvalue=None):
        yield {name: value for (name, _), value in zip(choices.items(), values, strict=True) if value is not None}


def examine_choices(
    options: Any, build: Callable[[Any], object], examine: Callable[[Any, frozenset[str] | None], Report]
) -> Finding:
    """Check the laws again with each choice that differs from the present options.

    Choices of several options are tried together; if a law is then broken, it is checked for each choice by itself.

    Arguments:
        options: An instance of the options class, or None.
        build: Builds the plugin from options; an InvalidInput refuses a combination of choices.
        examine: Returns the report on the plugin with other options: on the laws with these names, or on all.
    """
    choices, tried, refused = other_choices(options), 0, []
    broken: list[tuple[str, Finding]] = []
    waiting = list(rows(choices))
    while waiting:
        row = waiting.pop(0)
        alone = [{name: value} for name, value in row.items()]
        try:
            failures = failures_with(row, options, build, examine)
        except REFUSALS as error:
            if len(row) > 1:
                waiting += alone
            else:
                refused.append(f"{described(row)} ({error})")
            continue
        tried += len(row)
        if failures and len(row) > 1:
            named = frozenset(failure.name for failure in failures)
            single: list[tuple[str, Finding]] = []
            for choice in alone:
                with contextlib.suppress(*REFUSALS):
                    found = failures_with(choice, options, build, examine, named)
                    single += [(described(choice), failure) for failure in found]
            broken += single or [(described(row), failure) for failure in failures]
        else:
            broken += [(described(row), failure) for failure in failures]
    if broken:
        return Finding(CHOICES, False, "; ".join(f"{words}: {each.name}: {each.detail}" for words, each in broken))
    parts = [f"{counted(tried, 'choice')} of {', '.join(choices)}" if tried else "its options offer no others"]
    parts += [f"refused: {each}" for each in refused]
    parts += [f"not checked, for it departs from the contract on purpose: {each}" for each in departures(options)]
    return Finding(CHOICES, True, "; ".join(parts))


def failures_with(
    row: dict[str, Any],
    options: Any,
    build: Callable[[Any], object],
    examine: Callable[[Any, frozenset[str] | None], Report],
    names: frozenset[str] | None = None,
) -> tuple[Finding, ...]:
    """Return the laws that are broken with other values of some options; all laws are checked, or those with names.

    Raises:
        InvalidInput: If the options class or the plugin refuses the values; or another of `REFUSALS`.
    """
    changed = attrs.evolve(options, **row)
    try:
        build(changed)
    except REFUSALS:
        raise
    except Exception:  # the first law reports it
        pass
    return examine(changed, names).failures


def described(row: dict[str, Any]) -> str:
    """Return values of options in words, such as ``weights = trainable``."""
    return " and ".join(f"{name} = {value}" for name, value in row.items())
