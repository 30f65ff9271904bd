"""Options: what people write becomes what the classes declare, strictly, and back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import pytest
import tomli_w

from mpcc.core.config import RunSettings, options
from mpcc.core.errors import InvalidInput, PluginError, unknown_name
from mpcc.core.registry import load_registry

KINDS = {entry.options_class() for entry in load_registry([]).all_entries()} - {None}
CLASSES = [RunSettings, *sorted(KINDS, key=str)]  # in one order: several processes collect the same tests


@attrs.frozen
class Sample:
    whole: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    number: float = 1.0
    truth: bool = False
    text: str = "x"
    path: Path = Path("x")
    choice: Literal["train", "test"] = "train"
    images: int | Literal["all"] = "all"
    perhaps: float | None = None


def convert(name: str, value: Any) -> Any:
    return options.convert(value, options.fields(Sample)[name], f"--{name}")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("whole", "5", 5),
        ("whole", "1_000", 1000),
        ("whole", 5, 5),
        ("number", "2e-4", 2e-4),
        ("number", 3, 3.0),
        ("truth", "Yes", True),
        ("truth", "0", False),
        ("truth", True, True),
        ("text", "5", "5"),
        ("path", "a/b", Path("a/b")),
        ("choice", "test", "test"),
        ("images", "all", "all"),
        ("images", "7", 7),
        ("images", 7, 7),
        ("perhaps", None, None),
        ("perhaps", "0.5", 0.5),
    ],
)
def test_a_value_of_the_declared_type_is_taken(name: str, given: Any, expected: Any) -> None:
    result = convert(name, given)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("whole", "1.5", "a whole number"),
        ("whole", 1.5, "a whole number"),
        ("whole", 1.0, "a whole number"),
        ("whole", True, "a whole number"),
        ("whole", "", "a whole number"),
        ("whole", "1e3", "a whole number"),
        ("whole", None, "a whole number"),
        ("number", "nan", "a finite number"),
        ("number", "inf", "a finite number"),
        ("number", float("nan"), "a finite number"),
        ("number", "1e400", "a finite number"),
        ("number", 10**400, "a finite number"),
        ("number", True, "a finite number"),
        ("number", [1.0], "a finite number"),
        ("truth", "maybe", "true or false"),
        ("truth", 1, "true or false"),
        ("text", 5, "text"),
        ("text", "a\0b", "text"),
        ("path", 5, "a path"),
        ("path", "", "a path"),
        ("images", "most", "a whole number or all"),
        ("images", 1.5, "a whole number or all"),
        ("perhaps", "x", "a finite number"),
        ("choice", "tset", "did you mean 'test'? (expected one of test, train)"),
        ("choice", 1, "one of test, train"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_flag_the_value_and_what_was_expected(
    name: str, given: Any, expected: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        convert(name, given)
    message = str(caught.value)
    for part in (f"--{name}", str(given) if name == "choice" else repr(given), expected):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("clusters", "0", ">= 1"),
        ("batch", "1", ">= 2"),
        ("lr", "-0.5", "> 0"),
        ("ema_decay", "1.0", "< 1"),
        ("latent_weight", "-2", ">= 0"),
        ("seed", "-1", ">= 0"),
        ("seed", str(2**63), f"< {2**63}"),
    ],
)
def test_a_validators_message_names_the_flag_the_value_and_the_bound(name: str, given: str, expected: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(InvalidInput) as caught:
        options.convert(given, options.fields(RunSettings)[name], flag)
    assert str(caught.value).startswith(f"{flag}: ")
    assert expected in str(caught.value)
    assert given in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_plain_values_survive_toml(cls: type) -> None:
    known = options.fields(cls)
    table = tomllib.loads(tomli_w.dumps(options.plain(cls())))
    again = options.make(cls, {name: options.convert(table[name], known[name], name) for name in table}, "test")
    assert again == cls()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_option_has_a_default_a_type_and_one_line_of_help(cls: type) -> None:
    for name, field in options.fields(cls).items():
        help = field.metadata.get("help", "")
        assert help, f"{cls.__name__}.{name} has no help"
        assert "\n" not in help
        assert field.type is not None


def test_every_field_of_a_class_survives_toml_with_a_value_that_is_not_its_default() -> None:
    sample = Sample(3, 2.5, True, "a # b\n", Path("~/x y"), "test", 12, 0.5)
    known = options.fields(Sample)
    table = tomllib.loads(tomli_w.dumps(options.plain(sample)))
    assert Sample(**{name: options.convert(table[name], known[name], name) for name in table}) == sample


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InvalidInput, match=r"prior x.*'whol'.*did you mean 'whole'"):
        options.make(Sample, {"whol": 1}, "prior x")


def test_an_options_class_without_defaults_or_without_attrs_is_the_plugins_error() -> None:
    @attrs.frozen
    class NoDefault:
        value: int

    for cls, message in ((NoDefault, r"NoDefault\.value needs a type and a default"), (str, "not an attrs class")):
        with pytest.raises(PluginError, match=message):
            options.fields(cls)


def test_the_nearest_name_comes_before_a_list_however_long() -> None:
    message = str(unknown_name("array", "imags", [f"a{number:03}" for number in range(500)] + ["images"]))
    assert message.startswith("unknown array 'imags': did you mean 'images'? (expected one of a000, a001, ")
    assert message.endswith(" and 441 more)")
    assert len(message) < 600


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_class_that_python_makes_refuses_what_is_no_choice(cls: type) -> None:
    for name, field in options.fields(cls).items():
        kinds = [field.type, *get_args(field.type)]
        for kind in (kind for kind in kinds if get_origin(kind) is Literal):
            with pytest.raises(ValueError, match=rf"{name}.* '{get_args(kind)[0]}x'"):
                cls(**{name: f"{get_args(kind)[0]}x"})
