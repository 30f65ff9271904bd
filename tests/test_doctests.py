"""Examples in docstrings run, and public things have docstrings."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import mpcc.core
import mpcc.plugins

FOUND = [
    module
    for package in (mpcc.core, mpcc.plugins)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith(".__main__")
]

every_module = pytest.mark.parametrize("name", ["mpcc.core", "mpcc.plugins", *(module.name for module in FOUND)])
every_leaf = pytest.mark.parametrize("name", [module.name for module in FOUND if not module.ispkg])


@pytest.mark.filterwarnings("ignore:MPCC:UserWarning")  # examples train for a few iterations
@every_module
def test_the_examples_in_docstrings_print_what_they_say(name: str) -> None:
    # Not pytest's --doctest-modules: it would import every module a second time, as core.* and plugins.*.
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


@every_leaf
def test_a_module_says_what_it_is_and_lists_its_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    assert hasattr(module, "__all__"), f"{name} has no __all__"
    assert [public for public in module.__all__ if not hasattr(module, public)] == []


@every_leaf
def test_public_classes_and_functions_have_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    public = [getattr(module, public) for public in getattr(module, "__all__", ())]
    undocumented = [
        thing.__name__
        for thing in public
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and not (thing.__doc__ or "").strip()
    ]
    assert undocumented == []
