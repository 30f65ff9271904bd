"""``mpcc.load``: what the run found, new images with laws on seeds and clusters, whole models, pickles, bad input."""

from __future__ import annotations

import csv
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mpcc
from mpcc.core.api.loaded_run import LoadedRun
from mpcc.core.commands import entry
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.digits import Digits
from mpcc.plugins.datasets.options import DigitsOptions

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 3},
    **{"standing-passes": 2, "seed": 3, "device": "cpu", "threads": 1, "ema-decay": 0.5, "ema-start": 1},
}
DIGITS = Digits(DigitsOptions()).load(8, None, False).images.numpy()[:, 0]


def train(folder: Path, **more: object) -> Path:
    values = {**TINY, **{name.replace("_", "-"): value for name, value in more.items()}}
    with pytest.raises(SystemExit) as caught:
        entry.run_main([*(f"--{name}={value}" for name, value in values.items()), f"--out={folder}"])
    assert caught.value.code == 0
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def run(folder: Path) -> LoadedRun:
    return mpcc.load(folder, device="cpu")


def test_it_finds_what_the_evaluation_of_the_run_found(folder: Path, run: LoadedRun) -> None:
    posterior, latents = np.load(folder / "posterior.npy"), np.load(folder / "latents.npy")
    assert np.array_equal(run.posterior(DIGITS), posterior)
    assert np.array_equal(run.transform(DIGITS), latents)
    assert np.array_equal(run.predict(DIGITS), posterior.argmax(1))
    assert (run.n_clusters, run.latent_dim, run.image_shape) == (10, 3, (1, 8, 8))
    assert run.weights.sum() == pytest.approx(1)


def test_reconstructions_are_those_of_the_evaluation(folder: Path, run: LoadedRun) -> None:
    """The errors in assignments.csv are those between the images and their reconstructions."""
    with (folder / "assignments.csv").open(encoding="utf-8", newline="") as file:
        recorded = np.array([float(row["reconstruction_error"]) for row in csv.DictReader(file)])
    difference = (DIGITS.astype(float) - run.reconstruct(DIGITS)) / 127.5
    errors = (difference**2).mean((1, 2))
    # A picture has whole grey levels, the error of the evaluation is that before rounding.
    assert np.abs(errors - recorded).max() < 1e-2


@pytest.mark.parametrize("form", ["list", "tensor", "four axes", "rows"])
def test_images_may_come_in_any_form(run: LoadedRun, form: str) -> None:
    few = DIGITS[:7]
    forms: dict[str, Any] = {
        **{"list": few.tolist(), "tensor": torch.from_numpy(few), "four axes": few[:, None], "rows": few.reshape(7, 64)}
    }
    given = np.array(forms[form], dtype=np.uint8) if form == "list" else forms[form]
    assert np.array_equal(run.predict(given), run.predict(few))


def test_images_may_be_named_by_paths(run: LoadedRun, tmp_path: Path) -> None:
    for index, digit in enumerate(DIGITS[:6]):
        Image.fromarray(digit).save(tmp_path / f"{index}.png")
    np.save(tmp_path / "more.npy", DIGITS[6:9])
    expected = run.predict(DIGITS[:9])
    assert np.array_equal(run.predict(tmp_path), expected[:6])
    assert np.array_equal(run.predict([str(tmp_path / "0.png"), tmp_path / "more.npy"]), expected[[0, 6, 7, 8]])
    with pytest.raises(InvalidInput, match="no-such-folder"):
        run.predict("no-such-folder")


def test_samples_depend_on_the_seed_alone_and_leave_the_random_state(run: LoadedRun) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    images, clusters = run.sample(12, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, _ = run.sample(12, seed=1)
    other, _ = run.sample(12, seed=2)
    assert (images.shape, images.dtype, clusters.shape) == ((12, 8, 8), np.uint8, (12,))
    assert np.array_equal(images, again)
    assert not np.array_equal(images, other)


def test_samples_come_from_the_cluster_that_is_named(run: LoadedRun) -> None:
    clusters = np.array([4, 4, 2, 9])
    samples = run.generated(4, clusters, seed=3)
    assert samples.clusters.tolist() == clusters.tolist()
    assert np.array_equal(run.inverse_transform(samples.z.numpy(), clusters), samples.images.numpy()[:, 0])
    assert run.sample(5, 7)[1].tolist() == [7] * 5


def test_the_prior_draws_clusters_by_its_weights(run: LoadedRun) -> None:
    counts = np.bincount(run.sample(2000, seed=0)[1], minlength=10)
    assert np.abs(counts - 2000 * run.weights).max() < 4 * np.sqrt(2000 * 0.1 * 0.9)


def test_a_truncation_keeps_the_densest_of_the_draws(run: LoadedRun) -> None:
    """The share s of the highest density of a Gaussian of J dimensions lies within a chi-square quantile."""
    from scipy import stats

    prior = run.model.prior
    share, cluster = 0.25, 3
    z = run.generated(500, cluster, seed=2, truncation=share).z
    with torch.no_grad():
        component = prior.component(torch.tensor([cluster]))
        distances = ((z - component.mean) / component.stddev).square().sum(1)
    bound = stats.chi2(3).ppf(share)
    inside = (distances < bound).float().mean()
    assert float(inside) == pytest.approx(1, abs=4 * np.sqrt(share * (1 - share) / 2000) / share)
    assert float(distances.max()) < 1.3 * bound


def test_without_a_cluster_the_most_probable_one_of_a_latent_is_taken(run: LoadedRun) -> None:
    z = run.transform(DIGITS[:20])
    with torch.no_grad():
        clusters = run.model.prior.log_responsibilities(torch.from_numpy(z)).argmax(1).numpy()
    assert np.array_equal(run.inverse_transform(z), run.inverse_transform(z, clusters))


def test_a_line_begins_and_ends_with_samples_of_the_cluster(run: LoadedRun) -> None:
    line = run.interpolate([4, 4], steps=5, n=2, seed=1)
    ends = run.generated(4, 4, seed=1)
    assert line.images.shape == (10, 1, 8, 8)
    z = line.z.unflatten(0, (2, 5))
    assert torch.allclose(z[:, [0, -1]].flatten(0, 1), ends.z)
    assert torch.allclose(z[:, 2], z[:, [0, -1]].mean(1), atol=1e-6)


def test_the_score_is_that_of_the_run(folder: Path, run: LoadedRun) -> None:
    recorded = json.loads((folder / "results.json").read_text())["metrics"]["kept_information"]
    assert run.score(DIGITS) == pytest.approx(recorded, abs=1e-6)


@pytest.mark.parametrize("way", ["pickle", "save"])
def test_a_copy_computes_the_same(run: LoadedRun, tmp_path: Path, way: str) -> None:
    if way == "pickle":
        copy = pickle.loads(pickle.dumps(run))
    else:
        run.save(tmp_path / "saved")
        copy = mpcc.load(tmp_path / "saved", device="cpu")
    assert np.array_equal(copy.posterior(DIGITS[:50]), run.posterior(DIGITS[:50]))
    assert np.array_equal(copy.sample(5, 1)[0], run.sample(5, 1)[0])


def test_a_saved_model_is_not_taken_for_a_run_that_can_go_on(
    run: LoadedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.save(tmp_path / "saved")
    with pytest.raises(SystemExit) as caught:
        entry.run_main(["--resume", str(tmp_path / "saved"), "--iterations", "5"])
    assert caught.value.code == 2
    assert "holds a model without the state of its training" in capsys.readouterr().err


def test_threads_can_share_it(run: LoadedRun) -> None:
    expected, found = run.posterior(DIGITS[:64]), {}
    samples = {seed: run.sample(20, 1, seed=seed)[0] for seed in range(4)}
    drawn: dict[int, list[np.ndarray]] = {seed: [] for seed in range(4)}
    torch.manual_seed(8)
    before = torch.get_rng_state()

    def work(number: int) -> None:
        for _ in range(5):
            found[number] = run.posterior(DIGITS[:64])
            drawn[number].append(run.sample(20, 1, seed=number)[0])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[number], expected) for number in range(4))
    assert all(np.array_equal(images, samples[seed]) for seed, made in drawn.items() for images in made)
    assert torch.equal(torch.get_rng_state(), before)


def test_colour_images_come_back_in_colour(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (20, 9, 9, 3), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    colour = mpcc.load(
        train(tmp_path / "run", data="arrays", **{"data.path": tmp_path / "pictures.npy"}, preset="none"), device="cpu"
    )
    assert colour.sample(3)[0].shape == (3, 8, 8, 3)
    assert colour.reconstruct(pictures[:2]).shape == (2, 8, 8, 3)
    with pytest.raises(InvalidInput, match="images: expected images with 3 channels, as in training, got 1"):
        colour.predict(DIGITS[:5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.sample(0), "n: expected a whole number, at least 1, got 0"),
        (lambda run: run.sample(3, 10), r"cluster 10: expected 0 to 9 \(nearest valid choice: 9\)"),
        (lambda run: run.sample(3, -1), r"cluster -1: expected 0 to 9 \(nearest valid choice: 0\)"),
        (lambda run: run.sample(3, [1, 2]), "cluster: expected a whole number or 3 of them"),
        (lambda run: run.sample(3, 1.5), "cluster: expected a whole number or 3 of them"),
        (lambda run: run.sample(3, truncation=0), "truncation 0: expected a share from 0.01 to 1"),
        (lambda run: run.sample(2.5), "n: expected a whole number, at least 1, got 2.5"),
        (lambda run: run.interpolate(1, n=0), "n: expected a whole number, at least 1, got 0"),
        (lambda run: run.interpolate(1, steps=1), "steps 1: expected at least 2"),
        (lambda run: run.inverse_transform(np.zeros((2, 4))), r"z: expected the shape \(N, 3\), got \(2, 4\)"),
        (lambda run: run.inverse_transform(np.full((2, 3), np.nan)), "z: expected finite numbers"),
        (lambda run: run.predict([["a"]]), "images: expected an array of numbers"),
        (lambda run: run.predict([[1, 2], [3]]), "images: expected an array of images of one size"),
        (lambda run: run.predict(np.zeros((0, 8, 8), np.uint8)), "images: expected at least one image"),
        (lambda run: run.predict(np.full((3, 8, 8), np.nan)), "images: .*finite"),
    ],
)
def test_bad_input_is_refused_in_one_clear_line(run: LoadedRun, call: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        call(run)
    assert "\n" not in str(caught.value)
    assert "/tmp" not in str(caught.value)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="this folder does not hold a run"):
        mpcc.load(tmp_path)
