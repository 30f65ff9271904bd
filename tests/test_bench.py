"""``mpcc bench``: every figure is there and they agree with each other; no test asks how fast anything is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from mpcc.core.bench import inference as bench_inference
from mpcc.core.bench import presets as bench_presets
from mpcc.core.bench import report as bench_report
from mpcc.core.bench.inference import growth, predict_figures, predict_sizes
from mpcc.core.bench.memory import memory_of, resident
from mpcc.core.bench.reference import convolution, matmul
from mpcc.core.bench.subject import ImagesOnDemand, Subject
from mpcc.core.bench.timing import Measured, Spread, interleaved, section_seconds, training_figures
from mpcc.core.commands import entry
from mpcc.core.config import Layer, resolve
from mpcc.core.method.phases import MPCC
from mpcc.core.method.training import Trainer
from mpcc.core.registry import load_registry

CPU = torch.device("cpu")
SECTIONS = ("real images", "generated images", *(row.name for row in MPCC), "rest")
SHORT = ["--rounds", "2", "--iterations", "1", "--threads", "1", "--device", "cpu", "--predict-images", "100"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, without a data root, and with small numbers of clusters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPCC_DATA", raising=False)
    monkeypatch.setattr(bench_inference, "CLUSTERS", (10, 32, 100))
    monkeypatch.setattr(bench_inference, "BATCHES", (50, 160, 500))


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        entry.main(["bench", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def report(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "bench.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def subject() -> Subject:
    """The digits with networks as narrow as they get."""
    registry = load_registry(())
    tables = {"arch": {"width": 1}, "run": {"batch": 4, "device": "cpu", "threads": 1}}
    return Subject.of("digits", registry, resolve(registry, [Layer("flag", tables)]), reading=False)


def test_a_bench_of_everything_writes_table_figures_and_picture(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (bench_inference, bench_presets):
        monkeypatch.setattr(module, "memory_of", lambda *_, **__: {"after_setup": 5, "peak": 7, "increase": 2})
    assert bench("--engines", "plain,fast", *SHORT, "--out", "o") == 0
    out, err = capsys.readouterr()
    assert "digits: round 2 of 2" in err
    assert {line.split()[0] for line in out.splitlines() if line} >= {"plain", "fast", "loading:", "o:"}
    with Image.open("o/bench.png") as picture:
        assert picture.size[0] > 1000
    assert sorted(path.name for path in Path("o").iterdir()) == ["bench.json", "bench.png"]
    found = report("o")
    assert set(found) == {
        *("format", "date", "machine", "versions", "settings", "engines", "parts", "formulas", "presets", "command")
    }
    assert found["command"].startswith("mpcc bench --presets digits --engines plain,fast --parts training,loading,")
    digits = found["presets"]["digits"]
    assert set(digits) == {
        *("config", "image_shape", "threads", "training", "loading", "predict", "posterior"),
    }
    assert (digits["image_shape"], digits["threads"]) == ([1, 8, 8], 1)

    training = digits["training"]
    assert training["data"] == "synthetic"
    operations = training["operations_per_iteration"]
    names = ["matmul float32", "convolution float32, channels first", "convolution float32, channels last"]
    assert training["order"] == [*names, "plain", "fast"]
    for reference in training["references"].values():
        assert reference["rate"] == pytest.approx(reference["operations"] / reference["median"])
    best = max(each["rate"] for each in training["references"].values())
    for engine in training["engines"].values():
        assert [len(each) for each in engine["seconds"]] == [1, 1]
        assert engine["median"] == pytest.approx(np.median(engine["seconds"]))
        assert engine["rate"] == pytest.approx(operations / engine["median"])
        assert engine["of_best"] == pytest.approx(engine["rate"] / best)
        assert engine["of_best"] <= engine["of_matmul"]
        assert engine["images_per_second"] == pytest.approx(100 / engine["median"])
        assert sum(engine["phases"]["shares"].values()) == pytest.approx(1)
        assert tuple(engine["phases"]["shares"]) == SECTIONS
        assert engine["memory"]["peak"] == 7
    assert training["engines"]["plain"]["speedup"] == 1
    assert training["engines"]["fast"]["record"]["name"] == "fast"

    assert digits["loading"]["data"] != "synthetic"
    assert (digits["loading"]["images"], digits["loading"]["from"]) == (1797, "memory")
    assert set(digits["predict"]["engines"]) == {"plain", "fast"}
    assert set(digits["predict"]["memory"]["by_images"]) == {"10", "100"}
    assert digits["predict"]["memory"]["engine"] == "fast"
    assert digits["predict"]["memory"]["flat"] is None
    for name in ("responsibilities_by_clusters", "entropies_by_clusters", "responsibilities_by_batch"):
        curve = digits["posterior"][name]
        assert len(curve["sizes"]) == len(curve["median"]) == len(curve["seconds"]) == 3
        assert set(curve["growth"]) == {"whole", "upper_half", "last_decade"}


def test_data_that_is_not_there_is_replaced_and_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--presets", "mnist,folder", "--parts", "loading", *SHORT) == 0
    (folder,) = Path("runs").glob("bench-*")
    assert [path.name for path in folder.iterdir()] == ["bench.json"]
    for preset, needed in (("mnist", "--data-root"), ("folder", "--data.path")):
        loading = report(str(folder))["presets"][preset]["loading"]
        assert loading["data"] == "synthetic"
        assert needed in loading["missing"]
    assert capsys.readouterr().out.count("data: synthetic") == 2


def test_without_matplotlib_everything_else_is_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # None makes an import fail as if the module were not there.
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    assert bench("--parts", "posterior", *SHORT, "--out", "o") == 0
    out, err = capsys.readouterr()
    assert "no chart: matplotlib is not installed; pip install 'mpcc[plots]'" in err
    assert "posterior, entropies by K" in out
    assert [path.name for path in Path("o").iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--presets", "digtis"], "unknown --presets 'digtis': did you mean 'digits'. .expected one of"),
        (["--engines", "fats"], r"unknown --engines 'fats': did you mean 'fast'\? \(expected one of"),
        (["--parts", "training,lading"], "unknown --parts 'lading': .*did you mean 'loading'"),
        (["--presets", ""], "--presets: expected names separated by commas, got ''"),
        (["--engines", "plain,"], "--engines: expected names separated by commas, got 'plain,'"),
        (["--rounds", "0"], "--rounds: the value must be >= 1: 0"),
        (["--rounds", "1.5"], "--rounds: expected a whole number, got '1.5'"),
        (["--iterations", "many"], "--iterations: expected a whole number, got 'many'"),
        (["--predict-images", "9"], "--predict-images: the value must be >= 10: 9"),
        (["--threads", "0"], "--threads: the value must be >= 1: 0"),
        (["--device", "gpu"], "expected one of auto, cpu, cuda"),
        (["--out", "there"], "--out there already exists: expected a new folder"),
        (["--outt", "x"], "unknown option '--outt': did you mean '--out'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    Path("there").mkdir()
    assert bench(*flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("mpcc: error: ")
    assert re.search(message, err), err
    assert [path.name for path in Path().iterdir()] == ["there"]


def test_tf32_is_refused_where_the_hardware_lacks_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--engines", "fast-tf32", "--device", "cpu") == 2
    assert "this cpu has no tf32 arithmetic (nearest valid choice: --engines fast)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("known", "expected"), [(("tf32", "bf16"), ["fast-tf32", "fast-bf16"]), (("bf16",), ["fast-bf16"]), ((), [])]
)
def test_by_default_every_precision_of_the_hardware_is_measured(
    monkeypatch: pytest.MonkeyPatch, known: tuple[str, ...], expected: list[str]
) -> None:
    seen: list[list[str]] = []

    def stop(registry: Any, configs: Any, engines: list[str], *rest: Any) -> None:
        seen.append(engines)
        raise KeyboardInterrupt

    monkeypatch.setattr("mpcc.core.engines.choice.computes_in", lambda name, device: name in ("float32", *known))
    monkeypatch.setattr("mpcc.core.bench.presets.measured", stop)
    assert bench("--device", "cpu") == 130
    assert seen == [["plain", "fast", *expected]]


@pytest.mark.parametrize(("precision", "rounded"), [("float32", False), ("tf32", True), ("bf16", False)])
def test_a_reference_rounds_to_tf32_if_that_is_its_precision(precision: str, rounded: bool) -> None:
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    for reference in (matmul(CPU, precision, size=4), convolution(CPU, 2, 3, batch=1, precision=precision)):
        assert reference.precision == precision
        with reference.measured(torch.device("cuda")).active():
            assert (products.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (rounded, rounded, True)


@pytest.mark.gpu
def test_a_gpu_is_measured_in_tf32() -> None:
    parts = ("--parts", "training", "--rounds", "1", "--iterations", "1", "--device", "cuda")
    assert bench("--engines", "fast,fast-tf32", *parts, "--out", "o") == 0
    training = report("o")["presets"]["digits"]["training"]
    assert training["engines"]["fast-tf32"]["record"]["precision"] == "tf32"
    assert set(training["rates"]) == {"float32", "tf32"}
    assert training["references"]["matmul tf32"]["precision"] == "tf32"


def test_half_precision_is_refused_where_the_hardware_lacks_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpcc.core.engines.choice.computes_bf16", lambda device: False)
    assert bench("--engines", "fast-bf16", "--device", "cpu") == 2
    assert "this cpu has no bf16 arithmetic (nearest valid choice: --engines fast)" in capsys.readouterr().err


def test_a_failure_leaves_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "iterate", fail)
    assert bench("--parts", "training", *SHORT, "--out", "deep/er") == 130
    assert list(Path().iterdir()) == []


def test_the_arguments_are_checked_without_torch() -> None:
    code = (
        "import sys\nfrom mpcc.core.commands import entry\n"
        "for flags in (['--help'], ['--rounds', 'x'], ['--engines', 'y'], ['--presets', 'z']):\n"
        "    try: entry.main(['bench', *flags])\n    except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_round_has_a_turn_of_each_with_one_step_that_is_not_timed() -> None:
    steps: list[str] = []
    subjects = [
        Measured(name, lambda name=name: steps.append(name), afterwards=lambda name=name: steps.append(name.upper()))
        for name in "ab"
    ]
    rounds: list[int] = []
    seconds = interleaved(subjects, rounds=2, iterations=2, on_round=rounds.append)
    assert "".join(steps) == "aaaAbbbBaaaAbbbB"
    assert rounds == [1, 2]
    assert {name: [len(each) for each in found] for name, found in seconds.items()} == {"a": [2, 2], "b": [2, 2]}


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_phases_fill_an_iteration_and_leave_the_trainer_as_it_was(subject: Subject, engine: str) -> None:
    measured, other = (subject.assemble(engine).trainer for _ in range(2))
    torch.manual_seed(0)
    seconds = section_seconds(measured)
    assert tuple(seconds) == SECTIONS
    assert all(value > 0 for name, value in seconds.items() if name != "rest")
    torch.manual_seed(0)
    other.iterate()
    # Nor does it train otherwise afterwards.
    for each in (measured, other):
        torch.manual_seed(1)
        each.iterate()
    assert measured.iteration == other.iteration == 2
    assert measured.stream.state() == other.stream.state()
    for one, two in zip(measured.model.prior.parameters(), other.model.prior.parameters(), strict=True):
        assert torch.equal(one, two)


def test_figures_of_training_follow_from_the_seconds() -> None:
    seconds = {"plain": [[2.0, 2.0], [4.0, 4.0]], "fast-bf16": [[1.0, 1.0], [1.0, 1.0]]}
    phase = dict.fromkeys(SECTIONS, 0.0) | {"generator and prior": 3.0, "rest": 1.0}
    rates = {"float32": {"matmul": 100.0, "best": 200.0}, "bf16": {"matmul": 400.0, "best": 400.0}}
    found = training_figures(seconds, {key: [phase, phase] for key in seconds}, rates, operations=60, images=30)
    assert (found["plain"]["median"], found["plain"]["quartiles"], found["plain"]["spread"]) == (3.0, [2.0, 4.0], 2.0)
    assert [found["plain"][key] for key in ("images_per_second", "rate", "of_matmul", "of_best")] == [10, 20, 0.2, 0.1]
    assert (found["fast-bf16"]["speedup"], found["fast-bf16"]["of_best"]) == (3.0, 0.15)
    assert found["plain"]["phases"]["shares"] == dict.fromkeys(SECTIONS, 0.0) | {
        "generator and prior": 0.75,
        "rest": 0.25,
    }
    del seconds["plain"]
    alone = training_figures(seconds, {"fast-bf16": [phase]}, rates, operations=60, images=30)
    assert alone["fast-bf16"]["speedup"] is None


def test_a_single_measurement_has_no_spread() -> None:
    assert Spread.of([2.0]).plain() == {"median": 2.0, "quartiles": [2.0, 2.0], "spread": 0.0}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("sizes", [(10, 32, 100, 320, 1000, 3200, 10_000), (50, 160, 500, 1600, 5000)])
def test_the_exponent_of_a_power_law_is_found(sizes: tuple[int, ...], power: float) -> None:
    found = growth(sizes, [3e-5 * size**power for size in sizes])
    assert list(found.values()) == pytest.approx([power] * 3, abs=1e-12)


def test_fixed_costs_bend_the_whole_range_more_than_its_upper_end() -> None:
    sizes = (10, 32, 100, 320, 1000, 3200, 10_000)
    found = growth(sizes, [1e-3 + 1e-6 * size for size in sizes])
    assert found["whole"] < found["upper_half"] < found["last_decade"] < 1


@pytest.mark.parametrize("innermost", [False, True])
def test_the_operations_of_the_references_are_those_that_torch_counts(innermost: bool) -> None:
    for reference in (matmul(CPU, size=16), convolution(CPU, 6, 5, batch=3, innermost=innermost)):
        with FlopCounterMode(display=False) as counter:
            reference.step()
        assert counter.get_total_flops() == reference.operations


def test_every_engine_starts_from_the_same_weights(subject: Subject) -> None:
    plain, fast = (subject.assemble(engine).trainer.model.parts() for engine in ("plain", "fast"))
    for name, part in plain.items():
        for one, two in zip(part.state_dict().values(), fast[name].state_dict().values(), strict=True):
            assert torch.equal(one, two), name


def test_a_source_of_any_length_gives_an_image_the_same_pixels_each_time() -> None:
    source = ImagesOnDemand(10**9, 3, 4)
    some = source[torch.tensor([5, 10**9 - 1, 5])]
    assert (some.dtype, some.shape) == (torch.uint8, (3, 3, 4, 4))
    assert torch.equal(some[0], some[2])
    assert not torch.equal(some[0], some[1])


def test_memory_is_measured_for_decades_of_images() -> None:
    assert predict_sizes(10) == [1, 10]
    assert predict_sizes(50_000) == [5000, 50_000]
    assert predict_sizes(250_000) == [10_000, 100_000, 250_000]


@pytest.mark.check
def test_memory_is_that_of_a_process_of_its_own(subject: Subject) -> None:
    # A large parent must not be taken for its small child, as the peak of getrusage, which outlives exec, would be.
    ballast = np.ones(75_000_000)
    found = memory_of(subject.config, 1, "fast", iterations=1)
    assert set(found) == {"after_setup", "peak", "increase"}
    assert found["peak"] == found["after_setup"] + found["increase"]
    assert 10**8 < found["peak"] < resident("VmHWM")
    assert ballast.nbytes == 600_000_000
    assert memory_of(subject.config, 1, "fast", images=300).keys() == found.keys()


def test_a_process_that_fails_to_measure_memory_says_why(subject: Subject) -> None:
    gone = attrs.evolve(subject.config, plugins=(Path("gone.py"),))
    error = memory_of(gone, 1, "fast", iterations=1)["error"]
    assert error.startswith("status 1: mpcc.core.errors.InvalidInput: ")
    assert "gone.py" in error


@pytest.mark.parametrize(("per_image", "flat"), [(0, True), (10_000, False)])
def test_memory_of_predicting_is_flat_or_not(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, per_image: int, flat: bool
) -> None:
    monkeypatch.setattr(bench_inference, "memory_of", lambda *_, images: {"peak": 10**8 + per_image * images})
    memory = predict_figures(subject, {}, images=100_000, rounds=1)["memory"]
    assert (memory["flat"], memory["bytes_per_image"]) == (flat, per_image)


def test_a_report_without_memory_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    engine = {
        **{"median": 1.0, "spread": 0.1, "speedup": None, "images_per_second": 5.0, "rate": 1e9, "of_matmul": 0.5},
        **{"of_best": 0.25, "memory": {"error": "status -9: [killed]"}, "phases": {"shares": {"rest": 1.0}}},
    }
    training = {
        **{"operations_per_iteration": 10**9, "data": "synthetic", "references": {"matmul": {"rate": 2e9}}},
        "engines": {"fast": engine},
    }
    found = {"image_shape": [1, 8, 8], "threads": 1, "training": training}
    bench_report.print_report({"machine": {"device": "cpu"}, "presets": {"digits": found}})
    out = capsys.readouterr().out
    assert "memory of fast: status -9: [killed]" in out
    assert "50.0%" in out
