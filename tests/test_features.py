"""Scores of features: each formula against an oracle, extractors of every kind, what is refused before training."""

from __future__ import annotations

import builtins
import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from scipy import linalg, special
from torch import Tensor, nn

from mpcc.core.config import RunSettings
from mpcc.core.contracts import EvaluatedImages, Evaluation, FeatureRequest, Metric
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.evaluation import score
from mpcc.core.evaluation.findings import feature_request
from mpcc.core.registry import load_registry
from mpcc.core.run.assembly import choose_metrics
from mpcc.core.testing.metrics import MadeUpImages
from mpcc.plugins.metrics.extractors import load_extractor
from mpcc.plugins.metrics.frechet_distance import FrechetInceptionDistance, frechet_bias, frechet_distance
from mpcc.plugins.metrics.inception_score import InceptionScore, classifier_score
from mpcc.plugins.metrics.kernel_distance import KernelInceptionDistance, kernel_distance

# Of the extra `features`, which a machine without a network may lack.
inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

CPU = torch.device("cpu")
Factory = Callable[[], Metric]


def features(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    """Features as a network has them: not negative, correlated, float32."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(99)) / width**0.5
    return (torch.randn(count, width, generator=random) @ mixing + 0.3 + shift).relu()


# The formulas, to 1e-6 relative


def oracle_frechet(first: Tensor, second: Tensor) -> float:
    a, b = first.numpy().astype(np.float64), second.numpy().astype(np.float64)
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    difference = a.mean(0) - b.mean(0)
    root = linalg.sqrtm(np.atleast_2d(one @ two)).real
    return float(difference @ difference + np.trace(one) + np.trace(two) - 2 * np.trace(root))


@pytest.mark.parametrize(("counts", "width"), [((300, 400), 16), ((500, 200), 64), ((90, 90), 40)])
@pytest.mark.parametrize("shift", [0.01, 0.5])
def test_the_frechet_distance_is_that_of_scipys_matrix_root(counts: tuple[int, int], width: int, shift: float) -> None:
    first, second = features(counts[0], width, 1), features(counts[1], width, 2, shift)
    assert frechet_distance(first, second) == pytest.approx(oracle_frechet(first, second), rel=1e-6)


def test_the_frechet_distance_of_one_feature_is_the_closed_form() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(1, 2, 50), random.normal(-3, 0.5, 70)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    found = frechet_distance(torch.from_numpy(a)[:, None], torch.from_numpy(b)[:, None])
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_frechet_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    # All corners of a box are uncorrelated: the covariance is diagonal to the bit.
    corners = torch.tensor(list(np.ndindex(2, 2, 2)), dtype=torch.float64) * 2 - 1
    scales = torch.tensor([[1.0, 2.0, 3.0], [0.5, 2.5, 4.0]], dtype=torch.float64)
    first, second = corners * scales[0], corners * scales[1] + 0.1
    expected = 3 * 0.1**2 + float(((scales[0] - scales[1]) ** 2).sum()) * 8 / 7
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_equal_sets_have_no_frechet_distance_even_with_fewer_images_than_features() -> None:
    few = features(20, 100, 3)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(few, few.flip(0)) == pytest.approx(0, abs=1e-12)


def test_a_singular_covariance_has_the_exact_trace_of_its_root() -> None:
    # Two images each: both covariances have rank 1, and the overlap is |u . v| for their directions.
    first, second = features(2, 9, 4).double(), features(2, 9, 5).double()
    u, v = ((pair[0] - pair[1]) / 2**0.5 for pair in (first, second))
    difference = first.mean(0) - second.mean(0)
    expected = difference @ difference + u @ u + v @ v - 2 * abs(u @ v)
    assert frechet_distance(first, second) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("n", "m", "width", "spread"),
    [(200, 300, 1, 0.0), (200, 300, 4, 1.0), (500, 500, 64, 0.0), (2000, 3000, 16, 1.0), (300, 400, 100, 1.0)],
)
def test_the_bias_of_the_frechet_distance_is_that_of_two_samples_of_one_gaussian(
    n: int, m: int, width: int, spread: float
) -> None:
    random = torch.Generator().manual_seed(width)
    variances = (spread * torch.randn(width, generator=random, dtype=torch.float64)).exp()

    def sample(count: int) -> Tensor:
        return torch.randn(count, width, generator=random, dtype=torch.float64) * variances.sqrt()

    found = [frechet_distance(sample(n), sample(m)) for _ in range(40 if width > 1 else 400)]
    error = float(np.std(found)) / len(found) ** 0.5
    # Features with exactly this covariance: the rows of a scaled orthogonal basis, twice with both signs.
    basis = (variances * (2 * width - 1) / 2).sqrt().diag()
    expected = frechet_bias(torch.cat([basis, -basis]), n, m)
    assert np.mean(found) == pytest.approx(expected, abs=4 * error + 0.01 * expected)
    if spread == 0:
        assert expected == pytest.approx((1 / n + 1 / m) * width * (width + 5) / 4, rel=0.01)
    # Far more than 1/n + 1/m.
    assert width == 1 or expected > 4 * (1 / n + 1 / m)


def test_the_bias_needs_two_images_of_each() -> None:
    with pytest.raises(ValueError, match="at least 2 images, got 1 and 5"):
        frechet_bias(torch.eye(3), 1, 5)


def oracle_kernel(first: Tensor, second: Tensor) -> float:
    """The unbiased estimate, term by term."""
    a, b = first.numpy().astype(np.float64), second.numpy().astype(np.float64)
    m, width = a.shape

    def k(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray((x @ y.T / width + 1) ** 3)

    within = sum(k(x, x).sum() - np.trace(k(x, x)) for x in (a, b)) / (m * (m - 1))
    return float(within - 2 * k(a, b).sum() / m**2)


@pytest.mark.parametrize(("count", "width"), [(50, 16), (200, 100), (2, 3)])
def test_the_kernel_distance_of_all_images_is_the_unbiased_polynomial_mmd(count: int, width: int) -> None:
    first, second = features(count, width, 1), features(count, width, 2, 0.2)
    mean, deviation = kernel_distance(first, second)
    assert mean == pytest.approx(oracle_kernel(first, second), rel=1e-6)
    assert deviation == 0


def test_the_kernel_distance_takes_subsets_of_larger_sets() -> None:
    first, second = features(60, 8, 1), features(50, 8, 2, 0.2)
    mean, deviation = kernel_distance(first, second, subset_size=20)
    assert deviation > 0
    # An average over subsets of an unbiased estimate is close to the estimate from all of the smaller set.
    assert mean == pytest.approx(oracle_kernel(first[:50], second), abs=4 * deviation / 10)
    # Unequal sizes below the subset size: subsets of the smaller one's size.
    assert kernel_distance(first, second)[0] == kernel_distance(first, second, subset_size=50)[0]
    assert kernel_distance(first, second) == kernel_distance(first, second)


def oracle_score(logits: Tensor, splits: int) -> tuple[float, float]:
    values = logits.numpy().astype(np.float64)
    # The published order of the images: torch-fidelity shuffles with this seed.
    values = values[np.random.RandomState(2020).permutation(len(values))]
    found = []
    for number in range(splits):
        chunk = values[number * len(values) // splits : (number + 1) * len(values) // splits]
        p = special.softmax(chunk, axis=1)
        q = p.mean(0)
        found.append(math.exp(float((p * (np.log(p) - np.log(q))).sum(1).mean())))
    return float(np.mean(found)), float(np.std(found))


@pytest.mark.parametrize(("count", "splits"), [(100, 10), (103, 10), (30, 1), (7, 10)])
def test_the_classifier_score_is_the_exponential_of_the_mean_divergence(count: int, splits: int) -> None:
    logits = 3 * torch.randn(count, 12, generator=torch.Generator().manual_seed(count))
    mean, deviation = classifier_score(logits, splits)
    expected = oracle_score(logits, min(splits, count))
    assert mean == pytest.approx(expected[0], rel=1e-6)
    assert deviation == pytest.approx(expected[1], rel=1e-6, abs=1e-12)
    assert 1 <= mean <= 12


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_features_that_do_not_fit_are_refused(distance: Callable[..., Any], shapes: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"must have"):
        distance(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_logits_must_be_a_table() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(n, classes\)"):
        classifier_score(torch.zeros(3))


# Extractors of the user's own


def plain(images: Tensor) -> Tensor:
    assert images.dtype == torch.uint8
    return images.float().flatten(1)[:, :5]


def with_logits(images: Tensor) -> tuple[Tensor, Tensor]:
    return plain(images), images.float().flatten(1)[:, 5:8] / 99


class Network(nn.Module):
    """Counts the images; its dropout would show training mode."""

    seen = 0

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert not self.training
        assert not torch.is_grad_enabled()
        Network.seen += len(images)
        values: Tensor = self.drop(images.float().flatten(1))
        return values[:, :6], values[:, 6:9]


made = Network()
NOT_CALLABLE = 3


def wrong_count(images: Tensor) -> Tensor:
    return plain(images)[1:]


def no_tensor(images: Tensor) -> Any:
    return plain(images).tolist()


def three_things(images: Tensor) -> Any:
    return plain(images), plain(images), plain(images)


def images_again(images: Tensor) -> Tensor:
    return images.float()


def not_finite(images: Tensor) -> Tensor:
    return plain(images) / 0


def fails(images: Tensor) -> Tensor:
    raise KeyError("layer")


class WithArguments:
    """Cannot be made without one."""

    def __init__(self, path: str) -> None:
        self.path = path


def own(name: str, samples: int = 40) -> FeatureRequest:
    return FeatureRequest(extractor=f"{__name__}:{name}", samples=samples)


def evaluation(request: FeatureRequest, count: int = 30) -> Evaluation:
    labels = torch.arange(count) % 3
    images = MadeUpImages.of(labels, labels)
    images.request = request
    return Evaluation(torch.eye(3)[labels], torch.zeros(count, 2), labels, images)


def collected(images: EvaluatedImages, extract: Callable[[Tensor], Any]) -> tuple[Any, Any]:
    """Features of all real and all generated images at once."""
    return extract(torch.cat([*images.real()])), extract(torch.cat([*images.generated(images.request.samples)]))


METRICS: dict[str, Factory] = {
    "fid": FrechetInceptionDistance,
    "kid": KernelInceptionDistance,
    "inception_score": InceptionScore,
}


def test_scores_of_another_extractor_carry_its_name_and_are_right() -> None:
    request = own("with_logits")
    seen = evaluation(request)
    assert seen.images is not None
    made_metrics = {name: metric() for name, metric in METRICS.items()}
    for metric in made_metrics.values():
        metric.prepare(request)
    found = score(made_metrics, seen)
    name = f"[{request.extractor}]"
    (real, _), (generated, logits) = collected(evaluation(request).images, with_logits)  # type: ignore[arg-type]
    expected = {
        f"frechet_distance{name}": oracle_frechet(real, generated),
        f"kernel_distance{name}": kernel_distance(real, generated)[0],
        f"kernel_distance_deviation{name}": kernel_distance(real, generated)[1],
        f"classifier_score{name}": oracle_score(logits, 10)[0],
        f"classifier_score_deviation{name}": oracle_score(logits, 10)[1],
    }
    assert found == pytest.approx(expected, rel=1e-6)
    bias = frechet_bias(real, 30, 40)
    assert seen.images.record == {
        "features": {"extractor": request.extractor, "generated_images": 40},
        "frechet_bias": pytest.approx(bias, rel=1e-3),
    }


@pytest.mark.parametrize("name", ["Network", "made"])
def test_features_are_extracted_once_an_evaluation_in_evaluation_mode(name: str) -> None:
    seen = evaluation(own(name))
    Network.seen = 0
    score({key: metric() for key, metric in METRICS.items()}, seen)
    assert Network.seen == 30 + 40
    # A score of generated images alone doesn't look at the real ones.
    Network.seen = 0
    score({"inception_score": InceptionScore()}, evaluation(own(name)))
    assert Network.seen == 40


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("all", ["acc", "purity", "nmi", "ari", "kept_information", "silhouette", "reconstruction", "occupancy"]),
        (
            "kid, all,fid,kid",
            [
                *("kid", "acc", "purity", "nmi", "ari", "kept_information", "silhouette", "reconstruction"),
                *("occupancy", "fid"),
            ],
        ),
        ("squared_mean_error,acc", ["squared_mean_error", "acc"]),
    ],
)
def test_all_stands_for_the_metrics_that_are_not_on_request(names: str, expected: list[str]) -> None:
    assert list(choose_metrics(load_registry([]), names, own("plain"))) == expected


def test_metrics_are_prepared_before_they_are_used(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.pth: no such file"):
        choose_metrics(load_registry([]), "acc,fid", FeatureRequest(weights=tmp_path / "gone.pth"))
    with pytest.raises(
        InvalidInput, match=r"unknown metric 'fidd': did you mean 'fid'\? \(expected one of acc, all, ari, cal"
    ):
        choose_metrics(load_registry([]), "all,fidd")


def test_settings_become_a_request() -> None:
    settings = RunSettings(features="a:b", feature_weights=Path("w"), generated_images=7, download=True)
    assert feature_request(settings) == FeatureRequest("a:b", Path("w"), 7, True)
    assert feature_request(RunSettings()) == FeatureRequest()


@pytest.mark.check
def test_the_benchmark_prints_differences_below_a_millionth(repository: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / "feature_scores.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert {row[0] for row in rows} == {"Fréchet distance", "kernel distance", "classifier score"}
    assert len(rows) == 9
    assert all(float(row[5]) < 1e-6 for row in rows)


def test_metrics_of_features_are_on_request_and_need_images_but_no_labels() -> None:
    for metric in METRICS.values():
        assert (metric().on_request, metric().needs_images, metric().needs_labels) == (True, True, False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plain", "expected module:name, such as my_features:extract"),
        (":plain", "expected module:name"),
        ("a:b:c", "expected module:name"),
        ("no_such_module_here:f", "cannot import no_such_module_here: ModuleNotFoundError: .*--plugin"),
        (f"{__name__}:plane", "module .*test_features has no 'plane' .did you mean 'plain'"),
        (f"{__name__}:NOT_CALLABLE", "expected a function, or a class without arguments, got int"),
    ],
)
def test_an_extractor_that_cannot_be_found_is_refused_before_training(name: str, message: str) -> None:
    for metric in METRICS.values():
        with pytest.raises(InvalidInput, match=message) as caught:
            metric().prepare(FeatureRequest(extractor=name))
        assert f"--features {name}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong_count", r"expected features of shape \(\d+, F\), one row an image, got \(\d+, 5\)"),
        ("images_again", r"expected features of shape .* got \(\d+, 1, 8, 8\)"),
        ("no_tensor", "expected features as a tensor, got list"),
        ("three_things", r"expected features, or \(features, logits\), got 3 values"),
        ("not_finite", "expected finite features, got nan or infinity"),
        ("fails", r"it raised KeyError: 'layer' \(for uint8 images \(\d+, 1, 8, 8\)\)"),
        ("WithArguments", "a class must work without arguments: TypeError"),
    ],
)
def test_an_extractor_that_breaks_its_contract_is_named(name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        FrechetInceptionDistance().compute(evaluation(own(name)))
    assert f"--features {__name__}:{name}" in str(caught.value)


# Before training, metrics are tried on a few images


def wide(images: Tensor) -> Tensor:
    return images.float().flatten(1) @ torch.randn(images[0].numel(), 2048, generator=torch.Generator().manual_seed(0))


def constant(images: Tensor) -> Tensor:
    return torch.ones(len(images), 16)


def scalar(images: Tensor) -> Tensor:
    return images.float().mean((1, 2, 3))


def tried(name: str, evaluated: int = 30, samples: int = 40) -> FeatureRequest:
    examples = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return attrs.evolve(own(name, samples), evaluated=evaluated, examples=examples)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not_finite", "expected finite features, got nan or infinity"),
        ("scalar", r"expected features of shape \(4, F\), one row an image, got \(4,\)"),
        ("fails", r"it raised KeyError: 'layer'"),
        ("WithArguments", "a class must work without arguments"),
    ],
)
def test_an_extractor_that_fails_is_refused_before_training(name: str, message: str) -> None:
    for metric in METRICS.values():
        with pytest.raises(InvalidInput, match=message):
            metric().prepare(tried(name))


def test_logits_are_asked_for_before_training() -> None:
    with pytest.raises(InvalidInput, match=r"inception_score needs an extractor that returns \(features, logits\)"):
        InceptionScore().prepare(tried("plain"))
    FrechetInceptionDistance().prepare(tried("plain"))


def test_an_extractor_is_tried_once_for_all_metrics() -> None:
    request = tried("Network")
    Network.seen = 0
    for metric in METRICS.values():
        metric().prepare(request)
    assert Network.seen == 4


def test_fewer_images_than_features_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    FrechetInceptionDistance().prepare(tried("wide", evaluated=3000, samples=2049))
    KernelInceptionDistance().prepare(tried("wide"))
    assert caplog.text == ""
    FrechetInceptionDistance().prepare(tried("wide", evaluated=30))
    assert "30 evaluated and 40 generated images are compared in 2048 features" in caplog.text
    assert "expected more than 2048 of each" in caplog.text
    # The distance is computed all the same; its bias is not known then.
    seen = evaluation(own("wide"))
    assert math.isfinite(*FrechetInceptionDistance().compute(seen).values())
    assert seen.images is not None
    assert seen.images.record["frechet_bias"] is None


def test_features_that_are_the_same_for_all_images_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    request = tried("constant", evaluated=500, samples=500)
    for name in ("fid", "kid"):
        METRICS[name]().prepare(request)
    assert caplog.text.count("the first 4 images differ, but not in any of their 16 features") == 1
    found = score({name: METRICS[name]() for name in ("fid", "kid")}, evaluation(own("constant")))
    assert list(found.values()) == pytest.approx([0, 0, 0], abs=1e-9)
    # Equal images have equal features.
    caplog.clear()
    alike = attrs.evolve(request, examples=torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    FrechetInceptionDistance().prepare(alike)
    assert caplog.text == ""


def test_the_classifier_score_asks_for_logits() -> None:
    with pytest.raises(InvalidInput, match=r"inception_score needs an extractor that returns \(features, logits\)"):
        InceptionScore().compute(evaluation(own("plain")))


def test_too_few_images_are_refused() -> None:
    for metric in METRICS.values():
        with pytest.raises(InvalidInput, match="--generated-images 1: expected at least 2"):
            metric().prepare(own("plain", samples=1))
        with pytest.raises(InvalidInput, match="at least 2 evaluated images, got 1"):
            metric().compute(evaluation(own("with_logits"), count=1))


# The standard extractor


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with weights for the Inception network, random ones."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patched, torch.random.fork_rng():
        torch.manual_seed(0)
        patched.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patched.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub; returns where the weights would be."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"


@pytest.mark.check
def test_the_standard_extractor_is_torch_fidelitys_inception_with_grey_repeated(weights: Path) -> None:
    request = FeatureRequest(weights=weights, samples=12)
    found = evaluation(request, count=10)
    assert found.images is not None
    for metric in METRICS.values():
        metric().prepare(request)
    scores = score({name: metric() for name, metric in METRICS.items()}, found)
    assert list(scores) == ["fid", "kid", "kid_deviation", "inception_score", "inception_score_deviation"]
    network = inception.FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(weights))
    grey = torch.cat([*found.images.real()])
    real, _ = network(torch.cat([grey, grey, grey], dim=1))
    grey = torch.cat([*found.images.generated(12)])
    generated, logits = network(torch.cat([grey, grey, grey], dim=1))
    assert scores["kid"] == pytest.approx(kernel_distance(real, generated)[0], rel=1e-4, abs=1e-9)
    assert scores["inception_score"] == pytest.approx(oracle_score(logits, 10)[0], rel=1e-6)
    assert scores["fid"] == pytest.approx(frechet_distance(real, generated), rel=1e-4, abs=1e-9)
    record = found.images.record["features"]
    assert isinstance(record, dict)
    assert record["weights"] == "inception.pth"
    assert len(record["weights_sha256"]) == 64
    assert record["generated_images"] == 12
    extractor = load_extractor(request, CPU)
    colour = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(extractor.extract([colour]).values, network(colour)[0].double(), atol=1e-5, rtol=1e-4)
    with pytest.raises(InvalidInput, match="takes images with 1 or 3 channels, got 2: choose another one"):
        extractor.extract([colour[:, :2]])


def test_missing_weights_are_refused_before_training_with_the_path_and_three_remedies(hub: Path) -> None:
    for metric in METRICS.values():
        with pytest.raises(InvalidInput) as caught:
            metric().prepare(FeatureRequest())
        for part in (str(hub), "--feature-weights PATH", "--download", "--features module:name"):
            assert part in str(caught.value)


def test_weights_in_the_cache_of_torch_hub_are_found(hub: Path, weights: Path) -> None:
    hub.parent.mkdir(parents=True)
    hub.symlink_to(weights)
    FrechetInceptionDistance().prepare(FeatureRequest())


def test_download_fetches_the_weights_once_with_their_checksum(
    hub: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[tuple[str, str]] = []

    def fetch(url: str, path: str, prefix: str, progress: bool) -> None:
        fetched.append((url, prefix))
        Path(path).symlink_to(weights)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for metric in METRICS.values():
        metric().prepare(FeatureRequest(download=True))
    assert fetched == [(inception.URL_INCEPTION_V3, "6726825d")]


def test_a_download_that_fails_says_where_from_and_where_to(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(InvalidInput, match=r"--download: cannot fetch https.*6726825d.pth to .*: no route; give the"):
        FrechetInceptionDistance().prepare(FeatureRequest(download=True))


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (builtins.print, ("executed",))


@pytest.mark.parametrize("content", ["nothing", "text", "other", "trap"])
def test_files_that_are_no_weights_are_refused_and_never_executed(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("hello", encoding="utf-8")
    elif content == "other":
        torch.save({"fc.weight": torch.zeros(10, 2)}, path)
    elif content == "trap":
        torch.save({"fc.weight": Trap()}, path)
    expected = {"nothing": "no such file", "other": "expected those of torch-fidelity's Inception network"}
    with pytest.raises(InvalidInput, match=expected.get(content, "cannot be read as weights")) as caught:
        FrechetInceptionDistance().prepare(FeatureRequest(weights=path))
    assert str(path) in str(caught.value)
    assert "executed" not in capsys.readouterr().out


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-fidelity is not there."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch_fidelity" else find_spec(name, *rest)
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("uninstalled")
def test_without_torch_fidelity_the_extra_is_named_and_the_frechet_distance_of_ones_own_features_works() -> None:
    for metric in METRICS.values():
        with pytest.raises(InvalidInput, match=r'pip install "mpcc\[features\]"'):
            metric().prepare(FeatureRequest())
    FrechetInceptionDistance().prepare(own("plain"))
    FrechetInceptionDistance().compute(evaluation(own("plain")))
    with pytest.raises(InvalidInput, match=r'the metric kid needs torch-fidelity.*pip install "mpcc\[features\]"'):
        KernelInceptionDistance().prepare(own("plain"))
