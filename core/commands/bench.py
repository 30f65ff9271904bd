"""The command ``mpcc bench``: how fast training and what surrounds it are on this machine."""

from __future__ import annotations

import datetime
import shlex
from pathlib import Path
from typing import Annotated, Any

import attrs
from cyclopts import Parameter

from mpcc.core.bench.settings import BenchSettings
from mpcc.core.commands.plugin_flags import PluginFiles, RegistryFiles
from mpcc.core.config import Layer, RunConfig, options, resolve
from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import Registry, load_registry

__all__ = ["ENGINES", "PARTS", "bench"]

ENGINES = ("plain", "fast", "fast-bf16")
PARTS = ("training", "loading", "predict", "posterior")


def bench(
    *,
    presets: Annotated[str, Parameter(help="presets to measure, separated by commas")] = "digits",
    engines: Annotated[
        str | None,
        Parameter(
            help=f"engines to compare, separated by commas: {', '.join(ENGINES)}; by default plain, fast, and "
            "fast-bf16 where the hardware computes in bf16"
        ),
    ] = None,
    parts: Annotated[
        str | None, Parameter(help=f"what to measure, separated by commas: {', '.join(PARTS)}; by default all")
    ] = None,
    rounds: Annotated[str, Parameter(help="how often each engine has its turn")] = "5",
    iterations: Annotated[str, Parameter(help="timed iterations in each round, after one that is not timed")] = "2",
    predict_images: Annotated[
        str, Parameter(help="the most images that memory is measured for when their clusters are predicted")
    ] = "100000",
    device: Annotated[str, Parameter(help="where to compute: auto, cpu or cuda")] = "auto",
    threads: Annotated[str | None, Parameter(help="threads on the CPU; by default those of the preset")] = None,
    data_root: Annotated[str | None, Parameter(help="folder of the data sets; by default $MPCC_DATA")] = None,
    out: Annotated[Path | None, Parameter(help="folder to be made; by default a unique name below runs/")] = None,
    plugin: PluginFiles = None,
    registry: RegistryFiles = None,
) -> int:
    """Measure training, loading, prediction and posterior; print a table, write bench.json and bench.png."""
    found = load_registry(plugins=plugin or (), registries=registry or ())
    chosen_parts = chosen("--parts", ",".join(PARTS) if parts is None else parts, PARTS)
    wanted = None if engines is None else chosen("--engines", engines, ENGINES)
    settings = converted(
        rounds=rounds,
        iterations=iterations,
        device=device,
        threads=threads,
        data_root=data_root,
        predict_images=predict_images,
    )
    configs = {name: preset(found, name, settings) for name in chosen("--presets", presets, found.presets)}
    path = planned(out)
    # From here on torch is needed; everything above has been checked without it.
    from mpcc.core.bench.presets import measured
    from mpcc.core.bench.report import print_report, write_plot
    from mpcc.core.engines.choice import computes_bf16
    from mpcc.core.run.assembly import choose_device
    from mpcc.core.storage.run_folder import RunFolder
    from mpcc.core.system.whole_files import write_whole

    where = choose_device(settings.device)
    if wanted is None:
        wanted = [name for name in ENGINES if name != "fast-bf16" or computes_bf16(where)]
    elif "fast-bf16" in wanted and not computes_bf16(where):
        raise InvalidInput(
            f"--engines fast-bf16: this {where.type} has no bf16 arithmetic (nearest valid choice: --engines fast)"
        )
    folder = RunFolder(path, named=out is not None)
    folder.create()
    try:
        report = measured(found, configs, wanted, chosen_parts, settings, where)
        given = {"presets": ",".join(configs), "engines": ",".join(wanted), "parts": ",".join(chosen_parts)}
        report["command"] = command({**given, **attrs.asdict(settings)})
        write_whole(folder.path / "bench.json", as_json(report))
    except BaseException:
        folder.discard()
        raise
    print_report(report)
    drawn = write_plot(report, folder.path / "bench.png")
    print(f"{folder.path}: bench.json{', bench.png' if drawn else ''}")
    return 0


def as_json(report: dict[str, Any]) -> bytes:
    """Return the contents of ``bench.json``."""
    import json

    return (json.dumps(report, indent=1, allow_nan=False) + "\n").encode()


def command(values: dict[str, Any]) -> str:
    """Return a command line that says every value.

    Example:
        >>> command({"presets": "digits", "threads": None, "predict_images": 100})
        'mpcc bench --presets digits --predict-images 100'
    """
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in values.items() if value is not None]
    return shlex.join(["mpcc", "bench", *(word for pair in words for word in pair)])


def chosen(flag: str, given: str, known: Any) -> list[str]:
    """Return the names of a list separated by commas, each once.

    Raises:
        InvalidInput: If it is empty or a name does not exist.

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


def converted(**typed: str | None) -> BenchSettings:
    """Convert what was typed, as strictly as the flags of ``mpcc-run``.

    Raises:
        InvalidInput: Naming the flag, the value and what was expected.
    """
    known = options.fields(BenchSettings)
    values = {
        name: options.convert(value, known[name], f"--{name.replace('_', '-')}")
        for name, value in typed.items()
        if value is not None
    }
    return BenchSettings(**values)


def preset(registry: Registry, name: str, settings: BenchSettings) -> RunConfig:
    """Return the values of a preset, with the flags that are given above them.

    A preset of the name of a data set is for that; another one says itself which it takes.
    """
    # Not at the top: the commands' module imports this one.
    from mpcc.core.config import environment_layer

    flags = {"device": settings.device, "threads": settings.threads, "data_root": settings.data_root}
    tables = {"run": {key: value for key, value in flags.items() if value is not None}}
    named = {"data": {"name": name}} if name in registry.names("dataset") else {}
    return resolve(registry, [environment_layer(), Layer("flag", {**tables, **named})], name)


def planned(out: Path | None) -> Path:
    """Return the folder for the results, a new one.

    Raises:
        InvalidInput: If it exists.
    """
    if out is None:
        now = datetime.datetime.now(tz=datetime.UTC).astimezone()
        return Path("runs") / f"bench-{now:%Y%m%d-%H%M%S}"
    try:
        taken = out.exists() or out.is_symlink()
    except OSError as error:
        raise InvalidInput(f"--out {out}: cannot be made: {error.strerror}") from error
    if taken:
        raise InvalidInput(f"--out {out} already exists: expected a new folder")
    return out
