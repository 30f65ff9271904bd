"""The values of black and white: what the option takes, what is found in a set, and the grey levels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mpcc.plugins.datasets.reading.range_option import RangeSpec, ValueRange
from mpcc.plugins.datasets.reading.value_range import Extremes, find_range, measure, narrow_use, to_levels

FULL = {"bool": (0, 1), "uint8": (0, 255), "uint16": (0, 65535)}


def found(option: str, values: np.ndarray, parts: int = 3) -> ValueRange:
    """The range of values that come in parts."""
    spec = RangeSpec.parse(option)
    return find_range(spec, values.dtype.name, lambda: iter(np.array_split(values.ravel(), parts)))


@pytest.mark.parametrize(
    "text",
    ["type", "set", "percentiles", "percentiles:1,99.5", "90,2400", "-1000,3000.25", "set uint8:type", "uint16:0,4095"],
)
def test_an_option_is_written_as_it_is_read(text: str) -> None:
    assert str(RangeSpec.parse(text)) == text
    assert RangeSpec.parse(str(RangeSpec.parse(text))) == RangeSpec.parse(text)


def test_one_number_is_white() -> None:
    assert str(RangeSpec.parse("4095")) == "0,4095"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected type, set, percentiles"),
        ("sett", "nearest valid choice: set"),
        ("1,2,3", "got '1,2,3'"),
        ("5,5", "expected black below white, got '5,5'"),
        ("nan", "got 'nan'"),
        ("percentiles:5", "got 'percentiles:5'"),
        ("percentiles:5,101", "expected percentiles in 0..100"),
        ("set type", "expected one range for all types"),
        ("uint8:set uint8:type", "expected one range for uint8, got two"),
        ("unit16:set", "nearest valid choice: uint16"),
    ],
)
def test_what_is_no_range_is_told_with_what_is(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        RangeSpec.parse(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("percents", [(0.1, 99.9), (1, 99), (25, 75), (0, 100)])
def test_percentiles_are_those_of_numpy(kind: str, percents: tuple[float, float]) -> None:
    random = np.random.default_rng(0)
    for scale in (60,) if kind == "uint8" else (60, 1000, 15_000):
        values = random.normal(scale, scale / 2, 10_007)
        values[:3] *= 50  # a few hot pixels
        limits = np.iinfo(kind) if np.dtype(kind).kind in "iu" else np.finfo(kind)
        values = values.clip(limits.min, limits.max).astype(kind)
        expected = np.percentile(values, percents, method="nearest").astype(np.float32)
        got = found(f"percentiles:{percents[0]},{percents[1]}", values)
        assert (got.low, got.high) == pytest.approx(tuple(expected), rel=0, abs=0)


def test_the_range_of_a_set_is_from_its_smallest_to_its_largest_value() -> None:
    for values in (np.array([7, 3, 900], np.int64), np.array([0.5, -4.0, 2.0])):
        assert found("set", values) == ValueRange(float(values.min()), float(values.max()))


@pytest.mark.parametrize("kind", FULL)
def test_a_type_of_up_to_16_bits_is_not_measured(kind: str) -> None:
    def never() -> Iterator[np.ndarray]:
        raise AssertionError("no pass is needed")

    assert find_range(RangeSpec.parse("type"), kind, never) == ValueRange(*FULL[kind])
    assert find_range(RangeSpec.parse("5,9"), kind, never) == ValueRange(5, 9)
    assert find_range(RangeSpec.parse(f"set {kind}:5,9"), kind, never) == ValueRange(5, 9)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 254], np.int32), (0, 255)),
        (np.array([0, 2400], np.int32), (0, 2400)),
        (np.array([0, 65535], np.int32), (0, 65535)),
        (np.array([-1000, 3000], np.int16), (-1000, 3000)),
        (np.array([0, 9], np.int64), (0, 9)),  # 0..255 would be nearly black
        (np.array([0.0, 0.8]), (0, 1)),
        (np.array([-0.9, 0.8]), (-1, 1)),
        (np.array([-0.004, 1.0005]), (0, 1)),  # interpolation goes a little beyond
        (np.array([0.0, 250.0]), (0, 255)),
        (np.array([0.0, 3000.0]), (0, 3000)),
        (np.array([0.5, 0.5]), (0, 1)),
    ],
)
def test_other_types_have_a_usual_range_or_that_of_the_set(values: np.ndarray, expected: tuple[float, float]) -> None:
    assert found("type", values) == ValueRange(*expected)


def test_a_set_of_one_value_has_no_range_and_neither_have_infinite_values() -> None:
    with pytest.raises(ValueError, match=r"^all uint16 values are 7: expected two .* --data\.range LOW,HIGH$"):
        found("set", np.full(9, 7, np.uint16))
    with pytest.raises(ValueError, match=r"percentiles 0\.1 and 99\.9 of all float64 values are both 0: .* set or"):
        found("percentiles", np.array([*np.zeros(5000), 1.0]))
    for option in ("type", "set", "percentiles"):
        for bad in (np.nan, np.inf):
            with pytest.raises(ValueError, match="expected finite values"):
                found(option, np.array([0.0, 1.0, bad]))


def test_the_range_of_one_set_can_be_given_to_another() -> None:
    measured = {"uint8": ValueRange(10, 20), "uint16": ValueRange(0, 4095), "float32": ValueRange(0, 1)}
    settled = RangeSpec.parse("set uint8:type").settled(measured)
    assert str(settled) == "float32:0,1 uint16:0,4095 uint8:type"
    assert str(RangeSpec.parse("type").settled(measured)) == "float32:0,1"
    assert str(RangeSpec.parse("type").settled({"uint8": ValueRange(0, 255)})) == "type"
    assert str(RangeSpec.parse("5,9").settled(measured)) == "5,9"


@pytest.mark.parametrize("kind", ["bool", "uint8", "uint16", "int32", "float32", "float64"])
def test_levels_are_the_nearest(kind: str) -> None:
    random = np.random.default_rng(0)
    values = random.uniform(-20, 300, 1000).clip(0 if kind.startswith("u") else None, 255).astype(kind)
    for low, high in ((0, 255), (30.0, 90.0), (-1, 1), (0, 65535)):
        exact = (values.astype(np.float64).clip(low, high) - low) / (high - low) * 255
        assert np.abs(to_levels(values, ValueRange(low, high)) - exact).max() <= 0.5 + 1e-9


def test_sixteen_bits_are_divided_by_257() -> None:
    values = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(to_levels(values, ValueRange(0, 65535)), (values.astype(int) + 128) // 257)


def test_little_use_of_a_range_is_told() -> None:
    whole = ValueRange(0, 1000)
    assert narrow_use(Extremes(0, 100), whole) == ""
    assert narrow_use(Extremes(500, 5000), whole) == ""
    assert narrow_use(Extremes(), whole) == ""
    said = "values 900..950 use 5% of the range 0..1000, about 14 of 256 grey levels"
    assert narrow_use(Extremes(900, 950), whole) == said
    assert measure([]) == Extremes()
