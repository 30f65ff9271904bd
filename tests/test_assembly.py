"""What a run refuses to be put together from, and the past that it refuses to continue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor, nn

from mpcc.core.config import Layer, resolve
from mpcc.core.contracts import Architecture, Evaluation, ImageSet, Metric, Networks
from mpcc.core.errors import InvalidInput, PluginError, TrainingDiverged
from mpcc.core.images.stream import ImageStream
from mpcc.core.method.model import Model
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.registry import Entry, load_registry
from mpcc.core.reporting.health import check_parameters
from mpcc.core.run import assembly
from mpcc.core.storage.run_folder import RunFolder
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

CPU = torch.device("cpu")


def networks() -> Networks:
    return BigGAN8(BigGANOptions(width=1)).build(clusters=3, latent_dim=2, channels=1)


def prior() -> GaussianMixture:
    return GaussianMixture(3, 2, GaussianMixtureOptions())


class FixedMixture(GaussianMixture):
    """A prior whose locations and scales are buffers."""

    def __init__(self) -> None:
        super().__init__(3, 2, GaussianMixtureOptions())
        for name in ("loc", "raw_scale"):
            value = getattr(self, name).detach().clone()
            delattr(self, name)
            self.register_buffer(name, value)


class ElsewhereWeights(GaussianMixture):
    """A prior whose weights do not move along."""

    def weights(self) -> Tensor:
        return torch.full((3,), 1 / 3, device="meta")


def trainer(model: Model) -> Trainer:
    images = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    schedule = Schedule(batch=4, d_steps=1, e_steps=2, lr=1e-3, prior_lr=1e-3, ema_decay=0.9, ema_start=0)
    return Trainer(model, ImageStream(images, 4, seed=0), schedule, TermWeights.published(1, 8, 2))


def test_a_parameter_that_asks_for_no_gradient_is_refused_instead_of_trained() -> None:
    frozen = prior()
    frozen.extra = nn.Parameter(torch.ones(1), requires_grad=False)
    with pytest.raises(PluginError, match=r"GaussianMixture.extra .* expected a buffer for a fixed value"):
        Model.assemble(frozen, networks(), CPU)


def test_a_prior_of_buffers_stays_as_it_is_while_the_networks_train() -> None:
    fixed = FixedMixture()
    before = fixed.loc.clone()
    run = trainer(Model.assemble(fixed, networks(), CPU))
    run.iterate()
    assert torch.equal(fixed.loc, before)
    assert set(run.optimizers) == {"discriminator", "generator", "encoder"}


def test_weights_on_another_device_are_refused() -> None:
    with pytest.raises(PluginError, match=r"ElsewhereWeights.weights\(\) is on meta, but the run is on cpu"):
        Model.assemble(ElsewhereWeights(3, 2, GaussianMixtureOptions()), networks(), CPU)


def test_a_parameter_that_is_not_finite_is_named_before_it_is_saved() -> None:
    run = trainer(Model.assemble(prior(), networks(), CPU))
    check_parameters(run.model, 0)
    run.model.prior.loc[0, 0] = torch.nan
    with pytest.raises(TrainingDiverged, match="parameter loc of the prior is not finite at iteration 0"):
        check_parameters(run.model, 0)


class Eight(Architecture):
    """An architecture for 8x8 grey images."""

    image_size = 8
    channels = (1,)

    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        return networks()


# A number that the user has chosen; one of the defaults is lowered to the number of images.
TEN_CLUSTERS = Layer("flag", {"run": {"clusters": 10}})


def image_set(shape: tuple[int, ...] = (20, 1, 8, 8), **changes: object) -> ImageSet:
    images = torch.zeros(shape, dtype=torch.uint8)
    return attrs.evolve(ImageSet(images), **changes)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (lambda: image_set((20, 8, 8)), PluginError, r"expected uint8 images \(N, D, R, R\)"),
        (lambda: image_set(images=torch.zeros(20, 1, 8, 8)), PluginError, "got torch.float32"),
        (lambda: image_set((20, 1, 9, 8)), InvalidInput, "8x9 pixels; architecture 'biggan8' takes 8x8"),
        (lambda: image_set((20, 3, 8, 8)), InvalidInput, "3 channels; architecture 'biggan8' takes 1"),
        (lambda: image_set((9, 1, 8, 8)), InvalidInput, "--clusters 10 is more than the 9 images"),
        (lambda: image_set(labels=torch.zeros(3, dtype=torch.int64)), PluginError, "expected 20 labels"),
        (lambda: image_set(paths=["a"]), PluginError, "expected 20 paths"),
        (lambda: image_set(labels=torch.full((20,), -1)), PluginError, r"labels 0 or more, got torch.int64 in -1..-1"),
        (lambda: image_set(labels=torch.zeros(20)), PluginError, "expected int64 labels"),
        (lambda: image_set(labels=torch.full((20,), 2), class_names="ab"), PluginError, r"in 0..1, got .* in 2..2"),
    ],
)
def test_images_that_do_not_fit_are_refused(data: Callable[[], ImageSet], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        assembly.check_images(data(), Eight(), "dataset 'x'", resolve(load_registry(()), [TEN_CLUSTERS]))


@attrs.frozen
class SharpnessOptions:
    """Options of a metric."""

    power: float = 1.0


class Sharpness(Metric):
    """A metric with options."""

    def __init__(self, options: SharpnessOptions) -> None:
        self.power = options.power

    def compute(self, evaluation: Evaluation) -> float:
        return self.power


@pytest.mark.parametrize(
    ("defaults", "message"), [({"power": "bad"}, "power: expected a finite number"), ({"powr": 1.0}, "powr")]
)
def test_a_metric_that_is_registered_with_a_bad_option_is_refused_before_training(
    defaults: dict[str, object], message: str
) -> None:
    registry = load_registry(())
    entry = Entry("metric", "sharpness", "x:X", "s", "x:O", defaults, "test", "test", "1")
    entries = {**registry.entries, "metric": {"sharpness": (entry,)}}
    registry = attrs.evolve(registry, entries=entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Entry, "load", lambda self: Sharpness)
        patch.setattr(Entry, "options_class", lambda self: SharpnessOptions)
        with pytest.raises(InvalidInput, match=message):
            assembly.choose_metrics(registry, "all")
        good = attrs.evolve(entry, defaults={"power": 2})
        registry = attrs.evolve(registry, entries={**entries, "metric": {"sharpness": (good,)}})
        assert assembly.choose_metrics(registry, "sharpness")["sharpness"].power == 2.0


def test_only_what_may_not_change_on_resume_counts_as_a_difference() -> None:
    tables = resolve(load_registry(()), []).to_tables()
    changed = {**tables, "run": {**tables["run"], "lr": 0.5, "iterations": 7, "data_root": "/x"}}
    assert assembly.differences(tables, changed) == [f"run.lr was {tables['run']['lr']}, is 0.5"]
    # What was saved by a version that did not know a setting ran with its default.
    saved = {**tables, "run": {name: value for name, value in tables["run"].items() if name != "batch"}}
    assert assembly.differences(saved, tables) == []
    assert assembly.differences(saved, {**tables, "run": {**tables["run"], "batch": 8}}) == ["run.batch was 50, is 8"]
    changed = {**tables, "prior": {**tables["prior"], "scale_floor": 3.0}}
    assert assembly.differences(tables, changed) == ["prior.scale_floor was 0.2, is 3.0"]
    # The run of an earlier version: neither its checkpoint nor its config.toml knows a setting that has been added.
    old = {**tables, "run": {name: value for name, value in tables["run"].items() if name != "label_draws"}}
    assert assembly.differences(old, old) == []


def test_a_damaged_line_of_metrics_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"iteration": 1}\nnonsense\n')
    with pytest.raises(InvalidInput, match=r"metrics.jsonl is damaged"):
        folder.cut_metrics(1)
    assert folder.metrics.read_text() == '{"iteration": 1}\nnonsense\n'
