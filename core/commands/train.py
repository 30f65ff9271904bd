"""The command ``mpcc-run``: from its arguments to a finished run.

``mpcc-run`` parses twice: first the few flags that choose plugins and files, then all of them, with a signature that is
built from the options of the chosen plugins. torch is imported only after everything has been checked.
"""

from __future__ import annotations

import contextlib
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.commands.flags import COMMAND_FLAGS, command_line, early_flags, file_flags, full_signature, parse
from mpcc.core.commands.plugins import print_plugins
from mpcc.core.config import RESUMABLE, SECTIONS, Layer, RunConfig, compat_layer, flag, read_config, resolve
from mpcc.core.config.config import environment_layer, used
from mpcc.core.errors import EXIT_INTERRUPTED, InvalidInput, OutOfResources, PluginError, TrainingDiverged
from mpcc.core.registry import Registry, load_registry

__all__ = ["run_command"]


def run_command(arguments: list[str]) -> int:
    """Do what ``mpcc-run`` was asked for and return the exit status."""
    if "--version" in arguments:
        print(f"mpcc {metadata.version('mpcc')}")
        return 0
    early, files = early_flags(arguments), file_flags(arguments)
    resume = early["resume"]
    if resume is not None and (early["config"] or early["preset"] or early["compat"]):
        raise InvalidInput(
            "--resume continues with the run's own configuration: leave out --config, --preset and --compat"
        )
    path = Path(resume) / "config.toml" if resume else Path(early["config"]) if early["config"] else None
    if resume is not None and path is not None:
        try:
            found = path.is_file()
        except OSError as error:
            raise InvalidInput(f"--resume {resume}: cannot be read: {error.strerror}") from error
        if not found:
            raise InvalidInput(f"--resume {resume}: expected a run folder with config.toml")
    saved = [read_config(path)] if path else []
    lower = [environment_layer(), *saved]
    registry = load_registry(
        plugins=[*(file for layer in saved for file in layer.plugins), *files["plugins"]],
        registries=[*(file for layer in saved for file in layer.registries), *files["registries"]],
    )
    if early["compat"] is not None:
        lower.append(compat_layer(registry, early["compat"]))
    named = {section: {"name": early[section]} for section in SECTIONS if early[section]}
    # A run folder's configuration is complete: nothing may come in from a preset that has changed since.
    preset = "none" if resume else early["preset"]
    base = resolve(registry, [*lower, Layer("flag", named)], preset)
    signature, places = full_signature(registry, base)
    app = command_line(signature)
    if "--help" in arguments or "-h" in arguments:
        app.help_print([])
        print_plugins(registry)
        return 0
    typed = parse(app, arguments)
    command = {name: typed.pop(name) for name in list(typed) if name in COMMAND_FLAGS}
    tables: dict[str, dict[str, Any]] = {}
    for parameter, value in typed.items():
        section, name = places[parameter]
        tables.setdefault(section, {})[name] = value
    if resume is not None:
        check_resumable(tables)
    config = resolve(registry, [*lower, Layer("flag", tables)], preset)
    if command.get("dry_run"):
        print(config.to_toml(origins=True), end="")
        describe(registry, config)
        return 0
    return train(registry, config, command.get("out"), Path(resume) if resume else None)


def describe(registry: Registry, config: RunConfig) -> None:
    """Print the networks layer by layer, as comments below a configuration; reads the data only to count channels.

    Raises:
        InvalidInput: If the parts don't fit each other.
    """
    from mpcc.core.images.augmentation import Augmentation
    from mpcc.core.method.entropy import EntropyPolicy
    from mpcc.core.method.phases import phases_of
    from mpcc.core.registry.attribution import attributed
    from mpcc.core.reporting.summary import summarise
    from mpcc.core.run.assembly import known_metrics, load_data, schedule_of

    entries = {section: registry.entry(kind, getattr(config, section).name) for section, kind in SECTIONS.items()}
    settings = config.run
    with attributed(used(registry, config)):
        known_metrics(registry, settings.metrics)
        architecture = entries["arch"].load()(config.arch.options)
        Augmentation(settings.augment_crop, settings.augment_flip).check(architecture.image_size)
        prior = entries["prior"].load()(settings.clusters, settings.latent_dim, config.prior.options)
        entropy = EntropyPolicy.of(prior, settings.entropy, settings.entropy_samples)
        dataset = entries["data"].load()(config.data.options)
        channels = dataset.channels
        if channels is None:
            # Nothing is fetched for a dry run, and one without data still shows the configuration.
            offline = attrs.evolve(config, run=attrs.evolve(settings, download=False))
            try:
                channels = load_data(dataset, architecture, entries["data"].described(), offline).images.shape[1]
            except InvalidInput as error:
                print(f"\n# networks not described: {error}")
                return
        summary = summarise(
            architecture,
            prior,
            entropy=entropy,
            channels=channels,
            schedule=schedule_of(settings),
            phases=phases_of(entries["objective"].load()(config.objective.options)),
        )
    print("\n" + "\n".join(f"# {line}".rstrip() for line in summary.lines()))


def train(registry: Registry, config: RunConfig, out: Path | None, resume: Path | None) -> int:
    """Assemble and execute a run; return the exit status."""
    if resume is not None and out is not None:
        raise InvalidInput("--resume writes into the run's own folder: leave out --out")
    # From here on torch is needed; the names above have been checked without it.
    from mpcc.core.registry.attribution import attributed
    from mpcc.core.run.execution import Stopped, execute
    from mpcc.core.run.resume import resume as take_up
    from mpcc.core.run.run import Run
    from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
    from mpcc.core.storage.run_folder import RunFolder
    from mpcc.core.system.resources import memory_errors

    folder = RunFolder.existing(resume) if resume else RunFolder.plan(out, config)
    with contextlib.ExitStack() as held:
        if resume:
            held.enter_context(folder.locked())
        with memory_errors("loading and building", remedies(config)), attributed(used(registry, config)):
            run = Run.assemble(registry, config)
        checkpoints = KeptCheckpoints(folder.checkpoints, config.run.keep_checkpoints)
        if resume:
            with memory_errors("loading the checkpoint", remedies(config)):
                take_up(run, folder, checkpoints)
        else:
            folder.create()
        description = run.data.description or f"{config.data.name}: {len(run.data)} images"
        try:
            if not resume:
                held.enter_context(folder.locked())
            print(f"{description}; run folder {folder.path}", file=sys.stderr)
            with memory_errors("training", remedies(config)), attributed(used(registry, config)):
                results = execute(run, folder, checkpoints, resumed=resume is not None)
        except Stopped as stop:
            print(f"mpcc-run: {stop}", file=sys.stderr)
            return EXIT_INTERRUPTED
        except TrainingDiverged:
            # Kept even without a checkpoint: the events show what went wrong.
            raise
        except BaseException as error:
            if checkpoints.kept is None:
                # What has been found is of worth, and so is a folder that was there.
                if not resume and not folder.results.exists():
                    folder.discard()
            elif isinstance(error, (PluginError, OutOfResources)) and checkpoints.kept not in str(error):
                raise type(error)(f"{error}; {checkpoints.kept}") from error
            raise
    scores = " ".join(f"{name} {value:.3f}" for name, value in results["metrics"].items())
    print(f"{folder.path}: {results['iterations']} iterations in {results['seconds']:.0f} s {scores}".rstrip())
    return 0


def remedies(config: RunConfig) -> str:
    """Return which settings of a run to lower when memory runs out."""
    values = [f"--batch {config.run.batch}", f"--eval-images {config.run.eval_images}"]
    values += [f"--arch.width {config.arch.options.width}"] if hasattr(config.arch.options, "width") else []
    return f"lower {', '.join(values)} or the number of images in memory (--data.memory stream, where a set has it)"


def check_resumable(tables: dict[str, dict[str, Any]]) -> None:
    """Refuse flags that would change what a resumed run computes.

    Raises:
        InvalidInput: Naming the flag and those that may be given.
    """
    for section, values in tables.items():
        for name in values:
            if section != "run" or name not in RESUMABLE:
                allowed = ", ".join(flag("run", name) for name in sorted(RESUMABLE))
                raise InvalidInput(
                    f"{flag(section, name)} cannot change when a run is resumed: expected one of {allowed}"
                )
