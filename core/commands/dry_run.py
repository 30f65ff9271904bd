"""What a user is told about a run before it begins: the preset that was taken and, with ``--dry-run``, everything.

That is the configuration with the origin of each value, the networks, and how long the run takes.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from mpcc.core.config import Layer, RunConfig, resolve, used
from mpcc.core.config.time_budget import SET_BY_MINUTES
from mpcc.core.errors import InvalidInput, TrainingDiverged
from mpcc.core.registry import Registry

__all__ = ["about_preset", "describe"]

# So long it is measured how fast this machine is.
MEASURED_SECONDS = 2.0
# Colours of images whose number is not known before they are read; it hardly matters for the cost.
CHANNELS = 3


def describe(
    registry: Registry,
    config: RunConfig,
    out: Path | None,
    resume: Path | None,
    began: float | None = None,
    runs: float = 1.0,
) -> None:
    """Print the configuration, and the networks layer by layer as comments; do what a run does before it writes.

    A dry run downloads nothing. It does not fail because of files that the run would fetch. It carries out a few
    iterations to tell how long the run would take here. With minutes, it measures the speed, as the run would, and
    prints what they come to.

    Arguments:
        registry: The plugins.
        config: The configuration.
        out: The run folder that the user named, if any.
        resume: The run folder that would be resumed, or None.
        began: The monotonic clock's time at which the command began; by default now.
        runs: How many whole runs the minutes are for.

    Raises:
        InvalidInput: If the run could not begin; what can be described has been printed.
        OutOfResources: If memory runs out.
    """
    from mpcc.core.config.hints import hinted
    from mpcc.core.registry.attribution import attributed
    from mpcc.core.reporting.pace import duration
    from mpcc.core.run.assembly import augmentation, known_metrics, load_data, make_prior
    from mpcc.core.run.due import evaluations_left
    from mpcc.core.run.network_summary import network_summary
    from mpcc.core.run.resume import already_done, iterations_done
    from mpcc.core.run.run import Run
    from mpcc.core.run.time_budget import comment_of
    from mpcc.core.run.timed_steps import busy_machine, load_before
    from mpcc.core.run.whole_run import remedies
    from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
    from mpcc.core.storage.run_folder import RunFolder
    from mpcc.core.studies.seed_record import compares_seeds
    from mpcc.core.system.resources import memory_errors

    with attributed(used(registry, config)):
        config = hinted(registry, config)
    settings, done, time_needed = config.run, None, ""
    failure: Exception | None = None
    busy = busy_machine(*load_before())
    if settings.minutes is None:
        print(config.to_toml(origins=True), end="")
    offline = attrs.evolve(config, run=attrs.evolve(settings, download=False))
    if resume is None:
        RunFolder.plan(out, config)
    else:
        folder = RunFolder.existing(resume)
        done = iterations_done(KeptCheckpoints(folder.checkpoints))
    if line := about_preset(registry, config):
        print(f"\n# {line}")
    with memory_errors("loading and building", remedies(config)), attributed(used(registry, config)):
        # These checks are quick.
        known_metrics(registry, settings.metrics)
        augmentation(settings).check(config.arch.make().image_size)
        make_prior(config)
        channels = config.data.make().channels
        try:
            left = done if settings.minutes else None
            assembled = Run.assemble(registry, offline, began=began, done=left, runs=runs)
            channels = assembled.data.images.shape[1]
            data = assembled.data
            print(f"# {data.description or f'{config.data.name}: {len(data):,} images'}")
            of_images = {name: getattr(assembled.config.run, name) for name in ("batch", "clusters")}
            for name, value in of_images.items():
                if value != getattr(settings, name) and settings.minutes is None:
                    print(f"# with these images: {name} = {value}")
            if assembled.budget:
                settled = {name: getattr(assembled.config.run, name) for name in SET_BY_MINUTES}
                settings = attrs.evolve(settings, minutes=None, **settled)
                config = attrs.evolve(config, origins=assembled.config.origins)
                print(f"# {comment_of(assembled.budget)}")
            config = attrs.evolve(config, run=attrs.evolve(settings, **of_images))
            if done is not None and done >= config.run.iterations:
                raise InvalidInput(already_done(str(resume), done, config.run.iterations))
            # What is left of a comparison of seeds is not known here.
            if not assembled.budget and not (resume and compares_seeds(resume)):
                seconds = assembled.seconds_per_iteration(MEASURED_SECONDS)
                start, end = done or 0, config.run.iterations
                time_needed = duration(seconds, start, end, evaluations_left(start, config.run), runs)
        except (InvalidInput, TrainingDiverged) as error:
            failure = error
        if offline.run.minutes is not None:
            print(config.to_toml(origins=True), end="")
        if channels is None:
            print(f"\n# networks not described: {failure}")
        else:
            print("\n" + "\n".join(f"# {line}".rstrip() for line in network_summary(config, channels).lines()))
        if time_needed:
            print("\n".join(f"# {line}".rstrip() for line in ("", *([busy] if busy else []), time_needed)))
        if isinstance(failure, InvalidInput) and settings.download:
            try:
                load_data(offline)
            except InvalidInput:
                print(f"# to be fetched by the run: {failure}")
                return
    if failure is not None:
        raise failure


def about_preset(registry: Registry, config: RunConfig) -> str:
    """Return which preset was taken, and what another architecture than its own costs; empty if nothing was chosen."""
    choice = config.preset
    return choice.line if choice.made_for is None else f"{choice.line}; {relative_cost(registry, config)}"


def relative_cost(registry: Registry, config: RunConfig) -> str:
    """Return in words what an iteration costs beside one of the networks that the preset was made for."""
    import torch

    from mpcc.core.run.network_summary import network_summary
    from mpcc.core.system.randomness import own_randomness

    made_for = config.preset.made_for
    try:
        own = resolve(registry, [Layer("flag", {"data": {"name": config.data.name}})], config.preset.name)
        channels = config.data.make().channels or CHANNELS
        with own_randomness(config.run.seed, torch.device("cpu")):
            here, there = (
                network_summary(attrs.evolve(config, arch=arch), channels).operations_per_iteration
                for arch in (config.arch, own.arch)
            )
    except Exception:  # What is wrong is told where the run builds its networks; here it is a remark.
        return f"an iteration may cost many times as much as with {made_for}"
    ratio = here / there
    times = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
    return f"an iteration costs about {times} times as much as with {made_for}"
