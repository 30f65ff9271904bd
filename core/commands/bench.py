"""The command ``mpcc bench``: the speed of training, loading and prediction on this machine."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.bench.settings import BenchSettings
from mpcc.core.commands.flags import Parser, PluginFiles
from mpcc.core.config import Layer, RunConfig, RunSettings, environment_layer, resolve
from mpcc.core.config.options import option
from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import Registry
from mpcc.core.system.whole_files import check_new

__all__ = ["ENGINES", "PARTS", "BenchFlags", "bench"]

PURPOSE = "Measure training, loading, prediction and posterior; print a table, write bench.json and bench.png."
SETTINGS = ("device", "threads", "data_root")
ENGINES = ("plain", "fast", "fast-tf32", "fast-bf16")
PARTS = ("training", "loading", "predict", "posterior")


@attrs.frozen(slots=False)
class BenchFlags(PluginFiles):
    """The command's own flags, beside `BenchSettings`."""

    presets: str = option("digits", "presets to measure, separated by commas")
    engines: str | None = option(
        None,
        f"engines to compare, separated by commas: {', '.join(ENGINES)}; by default plain, fast, and fast-tf32 "
        "and fast-bf16 where the hardware computes in them",
    )
    parts: str = option(",".join(PARTS), "parts to measure, separated by commas")
    out: Path | None = option(None, "folder to create; by default a unique name below runs/")


def bench(words: list[str]) -> int:
    """Execute ``mpcc bench`` and return the exit status."""
    parser = Parser("mpcc bench", PURPOSE)
    parser.declare("Command", BenchFlags, values=BenchFlags())
    parser.declare("Measurement", BenchSettings, values=BenchSettings())
    parser.declare("Settings, by default those of the preset", RunSettings, "run", only=SETTINGS)
    typed = parser.read_all(words)
    flags, settings = typed.make(BenchFlags), typed.make(BenchSettings)
    registry = flags.load()
    parts = chosen("--parts", flags.parts, PARTS)
    engines = None if flags.engines is None else chosen("--engines", flags.engines, ENGINES)
    # All presets are measured on the same device, whatever device a preset names.
    tables = {"run": {"device": "auto", **typed.tables.get("run", {})}}
    configs = {name: preset(registry, name, tables) for name in chosen("--presets", flags.presets, registry.presets)}
    path = planned(flags.out)
    # The checks above do not need torch; the imports below load it.
    from mpcc.core.bench.presets import measured
    from mpcc.core.bench.report import print_report, write_plot
    from mpcc.core.engines.choice import computes_in
    from mpcc.core.run.assembly import choose_device
    from mpcc.core.storage.run_folder import RunFolder
    from mpcc.core.system.whole_files import write_whole

    device = choose_device(tables["run"]["device"])
    missing = [name for name in ENGINES if not computes_in(name.partition("-")[2] or "float32", device)]
    if engines is None:
        engines = [name for name in ENGINES if name not in missing]
    for name in engines:
        if name in missing:
            raise InvalidInput(
                f"--engines {name}: this {device.type} has no {name.partition('-')[2]} arithmetic "
                "(nearest valid choice: --engines fast)"
            )
    folder = RunFolder(path, named=flags.out is not None)
    report = measured(registry, configs, engines, parts, settings, device)
    print_report(report)
    with folder.filled():
        lists = {"presets": ",".join(configs), "engines": ",".join(engines), "parts": ",".join(parts)}
        report["command"] = command({**lists, **attrs.asdict(settings), **tables["run"]})
        write_whole(folder.path / "bench.json", (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    drawn = write_plot(report, folder.path / "bench.png")
    print(f"{folder.path}: bench.json{', bench.png' if drawn else ''}")
    return 0


def command(values: dict[str, Any]) -> str:
    """Return a command line that gives every value.

    Example:
        >>> command({"presets": "digits", "threads": None, "predict_images": 100})
        'mpcc bench --presets digits --predict-images 100'
    """
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in values.items() if value is not None]
    return shlex.join(["mpcc", "bench", *(word for pair in words for word in pair)])


def chosen(flag: str, given: str, known: Any) -> list[str]:
    """Return the names of a list separated by commas, without repetitions.

    Raises:
        InvalidInput: If the list is empty or a name does not exist.

    Example:
        >>> chosen("--parts", "training, loading,training", PARTS)
        ['training', 'loading']
    """
    names = list(dict.fromkeys(name.strip() for name in given.split(",")))
    for name in names:
        if not name:
            raise InvalidInput(f"{flag}: expected names separated by commas, got {given!r}; known: {', '.join(known)}")
        if name not in known:
            raise unknown_name(flag, name, known)
    return names


def preset(registry: Registry, name: str, tables: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """Return the configuration of a preset, with the given flags on top.

    Its data set is the one that it was made for, or the one that it names.
    """
    return resolve(registry, [environment_layer(), Layer("flag", tables)], name)


def planned(out: Path | None) -> Path:
    """Return the path of the new folder for the results.

    Raises:
        InvalidInput: If the folder exists already.
    """
    if out is None:
        now = datetime.datetime.now(tz=datetime.UTC).astimezone()
        return Path("runs") / f"bench-{now:%Y%m%d-%H%M%S}"
    check_new(out, "--out")
    return out
