"""The contract kit on deliberately wrong architectures, data sets and metrics, and on registered plugins that fail."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mpcc.core.contracts import Architecture, Dataset, Evaluation, FeatureRequest, ImageSet, Metric, Networks
from mpcc.core.errors import InvalidInput
from mpcc.core.layers.fusion import Fusable
from mpcc.core.registry import Entry, Registry, load_registry
from mpcc.core.testing import ContractViolation, check_architecture, check_dataset, check_metric, check_prior, examine


def failures(check: Any, *arguments: Any, **settings: Any) -> dict[str, str]:
    """The laws that a check finds broken, and the figures."""
    with pytest.raises(ContractViolation) as caught:
        check(*arguments, **settings)
    return {finding.name: finding.detail for finding in caught.value.report.failures}


# Architectures

A_BUILDS = "it is an Architecture that says its image size and channels and builds three networks"
A_SHAPES = "shapes, dtypes and devices are those of the contract; images lie in [-1, 1]"
A_TRAINED = "every parameter is trained; fixed values are buffers"
A_REACHED = "every parameter of a network gets a finite gradient from what the network gives"
A_INPUTS = "gradients reach the images and the latents"
A_COMPANY = "scores and encodings of an image do not depend on the other images"
A_OWN = "a generated image is a function of its latent and its cluster, whatever its place in the batch"
A_REACTS = "the generator reacts to the latent and to the cluster"
A_SAVED = "saving and loading its state gives the same networks"
A_SEEDED = "building is a function of the seed"
A_GROUPED = "a generator that declares grouped batches gives in one call what it gives in a call for each group"
A_FUSED = "fused layers give the same values and gradients"
A_SEPARATE = "the generator shares no parameter with the other networks"


class Generator(nn.Module):
    """A linear generator of 4x4 images."""

    def __init__(self, clusters: int, latent_dim: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.latent = nn.Linear(latent_dim, 16 * channels)
        self.label = nn.Embedding(clusters, 16 * channels)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.latent(z) + self.label(y)).view(-1, self.channels, 4, 4)


class Discriminator(nn.Module):
    """A linear discriminator on top of a layer that the encoder shares."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.score = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.score(self.trunk(x.flatten(1))).squeeze(1)
        return scores


class Encoder(nn.Module):
    """Two linear heads."""

    def __init__(self, trunk: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.loc = nn.Linear(6, latent_dim)
        self.raw_scale = nn.Linear(6, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.trunk(x.flatten(1)))
        return self.loc(h), self.raw_scale(h)


class Small(Architecture):
    """A right architecture; the wrong ones change one network."""

    image_size = 4
    channels: Sequence[int] | None = None

    def __init__(self, options: None = None) -> None:
        pass

    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        trunk = nn.Linear(16 * channels, 6)
        networks = Networks(Generator(clusters, latent_dim, channels), Discriminator(trunk), Encoder(trunk, latent_dim))
        self.change(networks)
        return networks

    def change(self, networks: Networks) -> None:
        """Spoil the networks."""


def test_a_right_architecture_passes() -> None:
    report = check_architecture(Small)
    assert report.passed
    assert any("discriminator and encoder share 2" in line for line in report.lines())
    assert "not declared" in next(line for line in report.lines() if "grouped batches" in line)


class CompanyGenerator(Generator):
    """Its images depend on the whole batch."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return super().forward(z + 0.3 * z.mean(0), y)


class OtherFusedGenerator(Generator, Fusable):
    """Something else where it is fused."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return super().forward(z * (1 + 0.1 * self.fused), y)


class Declared(Small):
    """Declares grouped batches."""

    generator: type[Generator] = Generator

    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        networks = super().build(clusters, latent_dim, channels)
        return attrs.evolve(networks, generator=self.generator(clusters, latent_dim, channels), grouped=True)


class DependsOnTheWholeBatch(Declared):
    generator = CompanyGenerator


class FusesSomethingElse(Declared):
    generator = OtherFusedGenerator


def test_an_architecture_that_declares_grouped_batches_is_held_to_it() -> None:
    assert "3 batches of 4" in next(line for line in check_architecture(Declared).lines() if "grouped" in line)
    broken = failures(check_architecture, DependsOnTheWholeBatch)
    assert set(broken) == {A_GROUPED, A_OWN}
    assert "3 batches of 4 in one call: images differs by" in broken[A_GROUPED]


def test_fused_layers_that_compute_something_else_are_found() -> None:
    broken = failures(check_architecture, FusesSomethingElse)
    assert A_FUSED in broken
    assert "fused: images differs by" in broken[A_FUSED]


def test_an_architecture_that_refuses_some_sizes_passes_and_the_report_says_which() -> None:
    class Divided(Small):
        def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
            if latent_dim % 4:
                raise InvalidInput(f"latent_dim must be a multiple of 4, got {latent_dim}")
            return super().build(clusters, latent_dim, channels)

    (builds, *_) = check_architecture(Divided).findings
    assert "refused: K=1, J=1, D=1 (latent_dim must be a multiple of 4, got 1)" in builds.detail


class Unbounded(Generator):
    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return 5 * super().forward(z, y)


class Unconditional(Generator):
    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return super().forward(z, torch.zeros_like(y))


class BatchNormed(Discriminator):
    def __init__(self, trunk: nn.Module) -> None:
        super().__init__(trunk)
        self.norm = nn.BatchNorm1d(6, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.trunk(x.flatten(1))
        scores: Tensor = self.score(self.norm(h) if len(h) > 1 else h).squeeze(1)
        return scores


class Column(Discriminator):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unsqueeze(1)


class DetachedHead(Encoder):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.trunk(x.flatten(1)))
        return self.loc(h), self.raw_scale(h).detach()


def spoiled(**classes: type[nn.Module]) -> type[Small]:
    """An architecture with other networks."""

    class Spoiled(Small):
        def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
            trunk = nn.Linear(16 * channels, 6)
            return Networks(
                classes.get("generator", Generator)(clusters, latent_dim, channels),
                classes.get("discriminator", Discriminator)(trunk),
                classes.get("encoder", Encoder)(trunk, latent_dim),
            )

    return Spoiled


@pytest.mark.parametrize(
    ("classes", "laws", "detail"),
    [
        ({"generator": Unbounded}, {A_SHAPES}, "images reach"),
        ({"generator": Unconditional}, {A_REACTS}, "another y changes the image by 0"),
        ({"discriminator": BatchNormed}, {A_COMPANY}, "discriminator: an image alone and in a batch of 4 differ"),
        ({"discriminator": Column}, {A_SHAPES}, "scores: expected shape (4,), got (4, 1)"),
        ({"encoder": DetachedHead}, {A_REACHED, A_INPUTS}, "raw_scale"),
    ],
)
def test_a_network_that_breaks_the_contract_is_found(
    classes: dict[str, type[nn.Module]], laws: set[str], detail: str
) -> None:
    found = failures(check_architecture, spoiled(**classes))
    assert set(found) == laws
    assert any(detail in text for text in found.values())


class Frozen(Small):
    def change(self, networks: Networks) -> None:
        networks.encoder.loc.bias.requires_grad_(False)


class Unused(Small):
    def change(self, networks: Networks) -> None:
        networks.generator.spare = nn.Linear(2, 2)


class Stray(Small):
    def change(self, networks: Networks) -> None:
        networks.encoder.mean = torch.zeros(3)


class Unseeded(Small):
    def change(self, networks: Networks) -> None:
        noise = torch.Generator().manual_seed(time.monotonic_ns())
        nn.init.normal_(networks.generator.latent.weight, generator=noise)


class Tied(Small):
    def change(self, networks: Networks) -> None:
        networks.discriminator.score.bias = nn.Parameter(torch.zeros(1))
        networks.generator.register_parameter("own", networks.discriminator.score.bias)


@pytest.mark.parametrize(
    ("cls", "law", "detail"),
    [
        (Frozen, A_TRAINED, "encoder.loc.bias is a parameter with requires_grad=False"),
        (Unused, A_REACHED, "no gradient reaches generator.spare.bias, generator.spare.weight"),
        (Stray, A_SAVED, "encoder.mean is a plain tensor"),
        (Unseeded, A_SEEDED, "generator built twice from one seed: latent.weight differs"),
        (Tied, A_SEPARATE, "discriminator.score.bias is generator.own"),
    ],
)
def test_parameters_that_break_the_contract_are_found(cls: type[Small], law: str, detail: str) -> None:
    found = failures(check_architecture, cls)
    assert detail in found[law]
    assert set(found) <= {law, A_REACHED, A_SAVED}


def test_an_architecture_without_an_image_size_gets_one_finding() -> None:
    class Sizeless(Small):
        image_size = 4.0  # type: ignore[assignment]

    found = failures(check_architecture, Sizeless)
    assert set(found) == {A_BUILDS}
    assert "image_size: expected a positive whole number, got 4.0" in found[A_BUILDS]


# Data sets

D_FILES = "without its files it raises InvalidInput and nothing else"
D_LOADS = "it loads"
D_IMAGES = "images are uint8, (N, D, R, R), of the size asked for"
D_VARY = "images are not all alike"
D_COMPANIONS = "labels, names and paths fit the images"
D_AGAIN = "loading again gives the same and leaves the global random states alone"


class Noise(Dataset):
    """A right data set of random images; the wrong ones change what it gives."""

    def __init__(self, options: None = None) -> None:
        pass

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        random = np.random.default_rng(0)
        images = torch.from_numpy(random.integers(0, 256, (9, 1, image_size, image_size), dtype=np.uint8))
        return self.change(
            ImageSet(
                images,
                torch.arange(9) % 3,
                class_names=("a", "b", "c"),
                paths=[f"noise#{index}" for index in range(9)],
                description="noise",
            )
        )

    def change(self, found: ImageSet) -> ImageSet:
        """Spoil the images."""
        return found


def test_a_right_data_set_passes() -> None:
    assert check_dataset(Noise).passed


class Floats(Noise):
    def change(self, found: ImageSet) -> ImageSet:
        return attrs.evolve(found, images=found.images.float())


class Fixed(Noise):
    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        return super().load(8, root, download)


class Black(Noise):
    def change(self, found: ImageSet) -> ImageSet:
        return attrs.evolve(found, images=torch.zeros_like(found.images))


class UnitRange(Noise):
    def change(self, found: ImageSet) -> ImageSet:
        return attrs.evolve(found, images=found.images // 128)


class FromOne(Noise):
    def change(self, found: ImageSet) -> ImageSet:
        return attrs.evolve(found, labels=found.labels + 1)


class ShortPaths(Noise):
    def change(self, found: ImageSet) -> ImageSet:
        return attrs.evolve(found, paths=found.paths[1:])


class Lines(Noise):
    def change(self, found: ImageSet) -> ImageSet:
        return attrs.evolve(found, description="two\nlines")


class Shuffled(Noise):
    def change(self, found: ImageSet) -> ImageSet:
        return attrs.evolve(found, images=found.images[torch.randperm(9)])


class Unstable(Noise):
    def change(self, found: ImageSet) -> ImageSet:
        order = np.random.default_rng().permutation(9)
        return attrs.evolve(found, images=(found.images + torch.from_numpy(order).view(-1, 1, 1, 1)).byte())


@pytest.mark.parametrize(
    ("cls", "laws", "detail"),
    [
        (Floats, {D_IMAGES}, "images: expected torch.uint8, got torch.float32"),
        (Fixed, {D_IMAGES}, "expected 12x12 pixels, got shape (9, 1, 8, 8)"),
        (Black, {D_VARY}, "every pixel is 0"),
        (UnitRange, {D_VARY}, "grey levels span 0..1 only: expected 0..255"),
        (FromOne, {D_COMPANIONS}, "labels: expected 0..2 as class_names say, got 3"),
        (ShortPaths, {D_COMPANIONS}, "paths: expected 9, one for each image, or none, got 8"),
        (Lines, {D_COMPANIONS}, "description: expected one line of text"),
        (Shuffled, {D_AGAIN}, "it draws from torch's global random state"),
        (Unstable, {D_AGAIN}, "the images differ from load to load"),
    ],
)
def test_a_data_set_that_breaks_the_contract_is_found(cls: type[Noise], laws: set[str], detail: str) -> None:
    found = failures(check_dataset, cls)
    assert set(found) == laws
    assert any(detail in text for text in found.values())


class Careless(Noise):
    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        assert root is not None
        (root / "images.bin").read_bytes()
        return super().load(image_size, root, download)


def test_missing_files_must_be_told_by_invalid_input(tmp_path: Path) -> None:
    (tmp_path / "images.bin").write_bytes(b"")
    found = failures(check_dataset, Careless, root=tmp_path)
    assert set(found) == {D_FILES}
    assert "AssertionError" in found[D_FILES]
    assert "test_contract_kit_other_kinds.py:" in found[D_FILES]


@pytest.mark.parametrize("name", ["mnist", "omniglot", "folder"])
def test_a_registered_data_set_without_its_files_is_said_to_need_them(name: str) -> None:
    report = examine("dataset", name, load_registry())
    (failure,) = report.failures
    assert failure.name == D_LOADS
    assert failure.detail.startswith(f"cannot be checked without its files: data set {name}") or name == "mnist"
    assert "cannot be checked without its files" in failure.line()


# Metrics

M_FINITE = "the score is a finite float for every clustering"
M_NAMES = "the numbers of the clusters do not matter"
M_ORDER = "the order of the images does not matter"
M_BETTER = "a perfect clustering scores at least as well as a random one"
M_LABELS = "needs_labels says whether it works without labels"
M_SCORES = "its scores carry the names that it announces, and no other metric's"
M_JUDGES = "a score that judges clusterings prefers a perfect one to a collapsed one and to a random one"
M_PURE = "it leaves its input alone and gives the same score again"


class Agreement(Metric):
    """The share of pairs on which clusters and classes agree; the wrong ones change it."""

    def __init__(self, options: None = None) -> None:
        pass

    def compute(self, evaluation: Evaluation) -> float:
        if evaluation.labels is None:
            raise ValueError("no labels")
        together = evaluation.assignments[:, None] == evaluation.assignments
        alike = evaluation.labels[:, None] == evaluation.labels
        return float((together == alike).double().mean())


class Occupied(Metric):
    """The share of clusters in use, which needs no labels."""

    needs_labels = False

    def __init__(self, options: None = None) -> None:
        pass

    def compute(self, evaluation: Evaluation) -> float:
        return len(evaluation.assignments.unique()) / evaluation.clusters


def test_right_metrics_pass_with_and_without_labels() -> None:
    assert check_metric(Agreement).passed
    assert check_metric(Occupied).passed


class Unannounced(Agreement):
    def compute(self, evaluation: Evaluation) -> Any:
        return {"pairs": super().compute(evaluation)}


class WrongDirection(Agreement):
    def scores(self, name: str, request: FeatureRequest) -> Any:
        return {name: "up"}


class Collapsing(Occupied):
    """Prefers few clusters, and claims to judge."""

    judges_clusterings = True

    def compute(self, evaluation: Evaluation) -> float:
        return 1 - super().compute(evaluation)


class Blind(Occupied):
    """All clusterings that use the clusters are the same to it."""

    judges_clusterings = True


class Undefined(Agreement):
    def compute(self, evaluation: Evaluation) -> float:
        return super().compute(evaluation) if len(evaluation.assignments.unique()) > 1 else float("nan")


class AsTensor(Agreement):
    def compute(self, evaluation: Evaluation) -> Any:
        return torch.tensor(super().compute(evaluation))


class Literally(Agreement):
    def compute(self, evaluation: Evaluation) -> float:
        super().compute(evaluation)
        return float((evaluation.assignments == evaluation.labels).double().mean())


class Backwards(Agreement):
    higher_is_better = False


class Overclaiming(Occupied):
    needs_labels = True


class Underclaiming(Agreement):
    needs_labels = False


class Writing(Agreement):
    def compute(self, evaluation: Evaluation) -> float:
        score = super().compute(evaluation)
        evaluation.posterior.mul_(0.5)
        return score


class Random(Agreement):
    def compute(self, evaluation: Evaluation) -> float:
        return super().compute(evaluation) + 1e-4 * float(torch.rand(()))


class FirstHalf(Agreement):
    def compute(self, evaluation: Evaluation) -> float:
        half = (len(evaluation.locations) + 1) // 2
        labels = None if evaluation.labels is None else evaluation.labels[:half]
        return super().compute(Evaluation(evaluation.posterior[:half], evaluation.locations[:half], labels))


@pytest.mark.parametrize(
    ("cls", "law", "detail"),
    [
        (Undefined, M_FINITE, "one cluster for all: expected a finite number, got nan"),
        (AsTensor, M_FINITE, "expected a float, got Tensor"),
        (Literally, M_NAMES, "renamed"),
        (Backwards, M_BETTER, "perfect 1, random 0.6289, but it declares that lower is better"),
        (Overclaiming, M_LABELS, "needs_labels is True, but without labels it gives 1"),
        (Underclaiming, M_LABELS, "raised ValueError: no labels"),
        (Writing, M_PURE, "it changes posterior"),
        (Random, M_PURE, "scores of the same clustering"),
        (FirstHalf, M_ORDER, "shuffled"),
        (Unannounced, M_SCORES, "scores() announces ['its_name'], compute() gives ['pairs']"),
        (WrongDirection, M_SCORES, "its_name: expected one of ('higher', 'lower', 'neither'), got 'up'"),
        (Collapsing, M_JUDGES, "a perfect one 0, a collapsed one 0.5, one cluster for all 0.75, a random one 0"),
        (Blind, M_JUDGES, "a perfect one 1, a collapsed one 0.5, one cluster for all 0.25, a random one 1"),
    ],
)
def test_a_metric_that_breaks_the_contract_is_found(cls: type[Metric], law: str, detail: str) -> None:
    found = failures(check_metric, cls)
    assert detail in found[law]
    # A score that is not a finite float, or not twice the same, breaks the laws that compare scores, too.
    assert cls in (Undefined, AsTensor, Random) or set(found) == {law}


# Registered plugins


def registry(**settings: Any) -> Registry:
    """A registry with one prior, ``mine``."""
    values = {
        "kind": "prior",
        "name": "mine",
        "target": "mpcc.plugins.priors.gmm:GaussianMixture",
        "summary": "Mine.",
        "options": "mpcc.plugins.priors.options:GaussianMixtureOptions",
        "defaults": {},
        "origin": "mine",
        "distribution": "mpcc-mine",
        "version": "1.0",
    }
    entry = Entry(**(values | settings))
    kinds = ("prior", "architecture", "dataset", "metric")
    return Registry({kind: {entry.name: (entry,)} if kind == entry.kind else {} for kind in kinds}, {}, {}, ())


@pytest.mark.parametrize(
    ("settings", "detail"),
    [
        ({"target": "no_such_module_here:Prior"}, "prior 'mine' of mpcc-mine 1.0 (mine): cannot import"),
        ({"target": "mpcc.plugins.priors.gmm:Gmm"}, "has no 'Gmm'"),
        ({"defaults": {"scale_flor": 1.0}}, "did you mean 'scale_floor'?"),
        ({"defaults": {"scale_floor": "much"}}, "scale_floor: expected a finite number, got 'much'"),
        ({"options": None, "defaults": {"scale_floor": 1.0}}, "defaults for scale_floor, but no options class"),
    ],
)
def test_a_registered_plugin_that_cannot_be_loaded_gets_a_report_that_says_why(
    settings: dict[str, Any], detail: str
) -> None:
    report = examine("prior", "mine", registry(**settings))
    assert len(report.findings) == 1
    assert detail in report.findings[0].detail
    assert "\n" not in report.findings[0].line()


def test_a_name_that_is_not_registered_is_the_users_mistake() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'gmm'"):
        check_prior("gmmm")
    with pytest.raises(InvalidInput, match="unknown prior 'other'"):
        examine("prior", "other", registry())


def test_registered_defaults_are_what_is_checked() -> None:
    report = examine("prior", "mine", registry(defaults={"weights": "trainable"}))
    assert report.passed
    assert "3 parameters" in next(line for line in report.lines() if "every parameter is trained" in line)


def test_the_report_tells_what_importing_the_options_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = "import attrs, torch\n\n@attrs.frozen\nclass Options:\n    pass\n"
    (tmp_path / "fake_heavy_options.py").write_text(heavy, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    def cost(options: str | None) -> str:
        report = examine("metric", "mine", registry(kind="metric", target=TARGET, options=options))
        return next(finding.detail for finding in report.findings if finding.name == "what importing its options costs")

    assert cost(None) == "nothing: it has no options"
    assert cost("mpcc.plugins.priors.options:GaussianMixtureOptions") == "no torch"
    assert "loads torch: --help and listings wait for it" in cost("fake_heavy_options:Options")


TARGET = "mpcc.plugins.metrics.accuracy:Accuracy"


def test_an_option_without_help_is_found() -> None:
    report = examine("prior", "mine", registry(options=f"{__name__}:Unhelpful"))
    assert "option weight of Unhelpful has no help" in report.failures[0].detail


@attrs.frozen
class Unhelpful:
    """Options without a word."""

    weight: float = 1.0
