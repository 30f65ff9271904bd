"""The parts of a run, each made from a configuration by one function, and checks that they fit each other."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from mpcc.core.config import RESUMABLE, RunConfig, RunSettings, options
from mpcc.core.config.layers import METRICS
from mpcc.core.config.locations import Places
from mpcc.core.config.requirements import REQUIRED
from mpcc.core.contracts import Architecture, Dataset, FeatureRequest, ImageSet, ImageSource, Metric, Objective, Prior
from mpcc.core.engines.choice import choose_engine
from mpcc.core.errors import InvalidInput, PluginError, unknown_name
from mpcc.core.evaluation.findings import feature_request
from mpcc.core.images.augmentation import Augmentation
from mpcc.core.images.contract import check_fit
from mpcc.core.images.invariances import Invariances
from mpcc.core.images.stream import ImageStream
from mpcc.core.method.entropy import EntropyPolicy
from mpcc.core.method.model import Model
from mpcc.core.method.phases import phases_of
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.shapes import check_networks, check_prior_shapes
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.registry import Registry
from mpcc.core.run.ranks.shares import check_share, norms_together
from mpcc.core.system import ranks
from mpcc.core.system.randomness import own_randomness

# How many images metrics are tried on before training.
EXAMPLES = 4

__all__ = [
    *(
        "augmentation",
        "build_model",
        "build_trainer",
        "check_images",
        "check_share",
        "choose_device",
        "choose_metrics",
        "differences",
    ),
    *("fitted", "known_metrics", "load_data", "make_prior", "schedule_of", "settle", "try_metrics"),
]

logger = logging.getLogger(__name__)


def make_prior(config: RunConfig) -> tuple[Prior, EntropyPolicy]:
    """Return the prior of a configuration, on the CPU, and where the entropies of its components come from.

    Raises:
        InvalidInput: If the objective cannot use the prior, its clusters can never differ, or it lacks the entropies
            that are asked for.
    """
    settings = config.run
    prior: Prior = config.prior.make(settings.clusters, settings.latent_dim)
    if never_differ(prior):
        raise InvalidInput(
            f"--prior {config.prior.name} --clusters {settings.clusters}: all its clusters are the same, and nothing "
            "trains them (nearest valid choice: --clusters 1, or --prior gmm)"
        )
    try:
        config.objective.make().check(prior)
    except InvalidInput as error:
        raise InvalidInput(f"--objective {config.objective.name} --prior {config.prior.name}: {error}") from error
    return prior, EntropyPolicy.of(prior, settings.entropy, settings.entropy_samples)


@torch.no_grad()
def never_differ(prior: Prior) -> bool:
    """Return whether the prior has several components without parameters, each as dense as the first at its draws."""
    if prior.clusters == 1 or any(parameter.numel() for parameter in prior.parameters()):
        return False
    with own_randomness(0, torch.device("cpu")), prior.full_precision():
        try:
            densities = prior.log_density(prior.component(torch.arange(prior.clusters)).rsample())
        except ValueError:  # a draw of one component is outside the support of another one
            return False
    return bool(torch.isclose(densities, densities[:, :1]).all())


def build_model(config: RunConfig, channels: int, device: torch.device) -> Model:
    """Build the prior and the networks of a configuration; their first weights come from torch's random state.

    Arguments:
        config: Names and options.
        channels: D, of the images.
        device: Where the weights will be.

    Raises:
        InvalidInput: If the plugins cannot be built for these numbers.
        PluginError: If something that a part returns has another shape than expected, if a part has a parameter that is
            not trained, or weights on another device.
    """
    prior, entropy = make_prior(config)
    check_prior_shapes(prior, config.prior.entry.described(), entropy)
    prior.label_draws = config.run.label_draws
    cls = type(prior)
    own = cls.sample_labels is not Prior.sample_labels or cls.sample is not Prior.sample
    if own and prior.label_draws != Prior.label_draws:
        logger.warning(
            "%s draws its labels itself: --label-draws %s does not change it", cls.__name__, prior.label_draws
        )
    objective: Objective = config.objective.make()
    architecture: Architecture = config.arch.make()
    networks = objective.networks(architecture, config.run.clusters, config.run.latent_dim, channels)
    described = config.arch.entry.described()
    if type(objective).networks is not Objective.networks:
        described += f", in networks of {config.objective.entry.described()}"
    check_networks(networks, prior, described, channels, architecture.image_size)
    return Model.assemble(prior, networks, device, entropy, objective.likelihood())


def augmentation(settings: RunSettings) -> Augmentation:
    """Return the augmentation of real images in training."""
    return Augmentation(settings.augment_crop, settings.augment_flip)


def build_trainer(config: RunConfig, model: Model, images: Tensor | ImageSource) -> Trainer:
    """Return the trainer of a model on images, with the objective and the engine that a configuration chooses.

    Raises:
        InvalidInput: If there are fewer images than a batch has, or the engine cannot run here.
    """
    settings = config.run
    check_share(settings.batch, ranks.current().size)
    stream = ImageStream(
        images,
        settings.batch,
        settings.seed,
        augmentation=augmentation(settings),
        invariances=Invariances.parse(settings.invariant_to),
        workers=settings.workers,
        device=model.device,
    )
    engine, phases = choose_engine(settings, model.device), phases_of(config.objective.make())
    weights, over_ranks = term_weights(settings, images.shape), norms_together(settings, model)
    return Trainer(model, stream, schedule_of(settings), weights, engine, phases, norms_over_ranks=over_ranks)


def term_weights(settings: RunSettings, shape: tuple[int, ...]) -> TermWeights:
    """Return the weights that the settings give, and the published ones for all other terms.

    A setting ``NAME_weight`` gives the weight of the term NAME, if it is a number. Any other term keeps its weight.

    Arguments:
        settings: Settings of the run.
        shape: (N, D, R, R), of the images.
    """
    published = TermWeights.published(shape[1], shape[2], settings.latent_dim)
    of_settings: dict[str, Any] = {
        name: getattr(settings, f"{name}_weight", "published") for name in attrs.asdict(published)
    }
    weights = attrs.evolve(published, **{name: weight for name, weight in of_settings.items() if weight != "published"})
    # All these stand beside the latent term, whose weight depends on the size of the images.
    return attrs.evolve(
        weights,
        balance=settings.balance_weight * weights.latent,
        consistency=settings.consistency_weight * weights.latent,
        generator_latent=settings.generator_latent_weight * weights.latent,
        generator_membership=settings.generator_membership_weight * weights.latent,
        balance_direction=settings.balance_direction,
        balance_tolerance=settings.balance_tolerance,
    )


def choose_device(name: str) -> torch.device:
    """Return the device of a name.

    Raises:
        InvalidInput: If CUDA is asked for, but there is no CUDA device.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InvalidInput("--device cuda: no CUDA device is available; nearest valid choice: --device cpu")
    return torch.device("cuda", torch.cuda.current_device()) if name != "cpu" and available else torch.device("cpu")


def schedule_of(settings: RunSettings) -> Schedule:
    """Return the schedule that the settings of a run ask for; its fields are settings of the same names."""
    return Schedule(**{field.name: getattr(settings, field.name) for field in attrs.fields(Schedule)})


def known_metrics(registry: Registry, names: str) -> list[str]:
    """Return the names in a list separated by commas; ``all`` stays as it is.

    Raises:
        InvalidInput: If a metric does not exist.
    """
    known = registry.names("metric")
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in ("all", *known):
            raise unknown_name("metric", name, ["all", *known])
    return wanted


def choose_metrics(
    registry: Registry,
    names: str,
    request: FeatureRequest | None = None,
    chosen_options: Mapping[str, Any] | None = None,
) -> dict[str, Metric]:
    """Return metrics by name, each prepared.

    Arguments:
        registry: Where they are registered.
        names: Separated by commas; ``all`` stands for every metric except those on request only.
        request: The settings of scores of features.
        chosen_options: Options by section, as `RunConfig.metrics`; the registered ones for a metric without a section.

    Raises:
        InvalidInput: If a metric does not exist, lacks what it needs, or does not take one of its registered options.
        PluginError: If a metric cannot be loaded.
    """
    wanted = known_metrics(registry, names)
    chosen = [name for word in wanted for name in (registry.names("metric") if word == "all" else [word])]
    entries = [registry.entry("metric", name) for name in dict.fromkeys(chosen)]
    metrics: dict[str, Metric] = {}
    for entry in entries:
        if entry.on_request and entry.name not in wanted:
            continue
        of_metric = (chosen_options or {}).get(f"{METRICS}.{entry.name}")
        if of_metric is None and (cls := entry.options_class()) is not None:
            # Registered options are converted as strictly as options from a user.
            of_metric = options.make(cls, entry.defaults, entry.described())
        metric = entry.load()(of_metric)
        if entry.name in wanted or not metric.on_request:
            metric.prepare(request or FeatureRequest())
            metrics[entry.name] = metric
    check_scores(metrics, request or FeatureRequest())
    return metrics


def check_scores(metrics: Mapping[str, Metric], request: FeatureRequest) -> None:
    """Check that no two metrics announce the same score.

    Raises:
        PluginError: If two do.
    """
    given: dict[str, str] = {}
    for name, metric in metrics.items():
        for score in metric.scores(name, request):
            if score in given:
                raise PluginError(f"metric {name!r} gives the score {score!r}, as the metric {given[score]!r} does")
            given[score] = name


def try_metrics(
    metrics: Mapping[str, Metric], data: ImageSet, indices: Tensor, settings: RunSettings, device: torch.device
) -> None:
    """Prepare metrics again, with examples of the data, so that what fails does so before training.

    Arguments:
        metrics: From `choose_metrics`.
        data: The images.
        indices: Those that will be evaluated, shape (N,).
        settings: Seed, scores of features.
        device: Of the run.

    Raises:
        InvalidInput: If a metric cannot use the images.
    """
    examples = data.images[indices[:EXAMPLES]].to(device)
    request = attrs.evolve(feature_request(settings), evaluated=len(indices), examples=examples)
    with own_randomness(settings.seed, device):
        for metric in metrics.values():
            metric.prepare(request)


def load_data(
    config: RunConfig, *, training: bool = True, once: bool | None = None, inputs: Sequence[Path] = ()
) -> ImageSet:
    """Read the images of a configuration and check that they suit it.

    Arguments:
        config: Names and options.
        training: Whether the images are for training, which needs as many images as clusters.
        once: Whether each image is wanted once only; by default unless they are for training.
        inputs: Files and folders to read in place of what the options of the data set name.

    Raises:
        InvalidInput: If the images cannot be read, don't fit, or are too few.
        PluginError: If the data set breaks its contract.
    """
    described, architecture = config.data.entry.described(), config.arch.make()
    dataset: Dataset = config.data.make()
    if not training if once is None else once:
        # A data set that cannot be told, such as a frozen class, reads its images in its own way.
        with contextlib.suppress(AttributeError):
            dataset.each_once = True
    try:
        if inputs:
            data = dataset.load_inputs(inputs, architecture.image_size)
        else:
            data = dataset.load(architecture.image_size, config.run.data_root, config.run.download)
    except OSError as error:
        file = f" {error.filename}" if error.filename else ""
        raise InvalidInput(f"{described}: cannot read{file}: {error.strerror or error}") from error
    if training:
        check_images(data, architecture, described, config)
    else:
        check_fit(data, architecture, described, config.arch.name)
    return data


def settle(config: RunConfig, data: ImageSet) -> RunConfig:
    """Return a configuration with the options of the data set whose values were found in the images.

    Raises:
        PluginError: If the data set has no such option.
    """
    if not data.settled:
        return config
    try:
        found = options.make(
            type(config.data.options), {**options.plain(config.data.options), **data.settled}, config.data.name
        )
    except InvalidInput as error:
        raise PluginError(f"{config.data.entry.described()}: ImageSet.settled: {error}") from error
    return attrs.evolve(config, data=attrs.evolve(config.data, options=found))


def fitted(config: RunConfig, count: int) -> RunConfig:
    """Return a configuration whose batch and clusters are not more than the images, unless the user asked for them.

    Those of the defaults or of a preset are lowered, which is logged. Any others are refused, the batch by the stream
    of images, the clusters by `check_images`.

    Arguments:
        config: Names, options and their origins.
        count: N, the number of images.
    """
    lowered: dict[str, Any] = {}
    for name, more in {"batch": "is larger than the data set", "clusters": "are more than the data set has"}.items():
        value = getattr(config.run, name)
        if value > count >= 2 and of_no_user(config, name):
            logger.info(
                "%s %d (%s) %s: lowered to its %d images", name, value, config.origins[f"run.{name}"], more, count
            )
            lowered[name] = count
    return attrs.evolve(config, run=attrs.evolve(config.run, **lowered)) if lowered else config


def of_no_user(config: RunConfig, name: str) -> bool:
    """Return whether a setting has the value of the defaults, of a preset, of an objective or of the data set."""
    origin = config.origins.get(f"run.{name}", "")
    return origin == "default" or origin.startswith(("preset ", "data set ", "classes of ", REQUIRED))


def check_images(data: ImageSet, architecture: Architecture, described: str, config: RunConfig) -> None:
    """Check that a data set fits the architecture and has enough images for the run.

    Raises:
        PluginError: If the data set breaks its contract.
        InvalidInput: If there are too few images or the channels don't fit.
    """
    check_fit(data, architecture, described, config.arch.name)
    if len(data) < 2:
        raise InvalidInput(f"{described} gave {len(data)} image: expected at least 2 to be clustered")
    if config.run.clusters > len(data) and not of_no_user(config, "clusters"):
        raise InvalidInput(
            f"--clusters {config.run.clusters} is more than the {len(data)} images of the data set "
            f"(nearest valid choice: --clusters {len(data)})"
        )


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], movable: Places = ()) -> list[str]:
    """Return which settings differ that may not change on resume, each as a text such as ``run.lr was 0.1, is 1``.

    Arguments:
        saved: Tables of the checkpoint's configuration.
        now: Tables of the present one.
        movable: The options of plugins that only say where files are.
    """
    changed = []
    for section in now:
        if section not in saved:  # An earlier version had no such section: the run used the default.
            continue
        before, after = saved[section], now[section]
        if section == "run":
            # An earlier version had fewer settings: for those added since, the run used the defaults.
            defaults = {field.name: field.default for field in attrs.fields(RunSettings)}
            before, after = {**defaults, **before}, {**defaults, **after}
        # An earlier version may have had other options of data. The fingerprint guards the images themselves.
        names = {*before} & {*after} if section == "data" else {*before, *after}
        for name in sorted(names):
            if (section == "run" and name in RESUMABLE) or (section, name) in movable:
                continue
            if before.get(name) != after.get(name):
                changed.append(f"{section}.{name} was {before.get(name)}, is {after.get(name)}")
    return changed
