"""The estimator ``mpcc.MPCC``: the checks of scikit-learn, the images that it takes, what it keeps, pipelines."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import mpcc
from mpcc.core.api.fit_warnings import in_python_words
from mpcc.core.commands import entry
from mpcc.core.config import SECTIONS, RunSettings
from mpcc.core.errors import InvalidInput
from mpcc.core.reporting.symptoms import OF_FORMING, Symptom, symptoms
from mpcc.core.reporting.vitals import Vitals
from mpcc.core.run import execution
from mpcc.core.system.toml_file import read_toml

# Nearly all tests train for two iterations, which is too few: `fit` says so, as tests below check.
pytestmark = pytest.mark.filterwarnings("ignore:MPCC:UserWarning")
DIGITS = load_digits().images[:80]
TINY = {
    **{"arch.width": 1, "batch": 10, "latent_dim": 3, "d_steps": 1, "e_steps": 1, "standing_passes": 2},
    **{"ema_decay": 0.5, "ema_start": 1, "balance_weight": 0, "consistency_weight": 0, "invariant_to": "none"},
}


def tiny(**more: Any) -> mpcc.MPCC:
    values = {"n_clusters": 4, "arch": "biggan8", "preset": "none", "iterations": 2, "random_state": 0, "device": "cpu"}
    return mpcc.MPCC(**{**values, "settings": TINY, **more})


# Checks of scikit-learn that do not hold, each with the reason. A test below checks what holds in its place.
EXEMPT = {"check_clustering": "two iterations find no groups: see test_it_finds_the_groups_that_scikit_learn_asks_for"}


# Checks that may fail by a rounding in float32, which depends on an image's place in a batch; a test below allows 1e-5.
ROUNDED = {"check_methods_sample_order_invariance", "check_methods_subset_invariance"}


def name_of(check: Any) -> str:
    return str(getattr(check, "func", check).__name__)


@parametrize_with_checks(
    [tiny(n_clusters=2, image_shape="auto")], expected_failed_checks=lambda _: EXEMPT, xfail_strict=True
)
def test_the_checks_of_scikit_learn_hold(estimator: Any, check: Any) -> None:
    try:
        check(estimator)
    except AssertionError:
        if name_of(check) not in ROUNDED:
            raise


def test_order_and_number_of_images_change_nothing_but_a_rounding(fitted: mpcc.MPCC) -> None:
    order = np.random.default_rng(0).permutation(len(DIGITS))
    for method in (fitted.transform, fitted.predict_proba):
        whole = method(DIGITS)
        np.testing.assert_allclose(method(DIGITS[order]), whole[order], atol=1e-5)
        np.testing.assert_allclose(
            np.concatenate([method(DIGITS[k : k + 7]) for k in range(0, 80, 7)]), whole, atol=1e-5
        )


@pytest.mark.check
@pytest.mark.parametrize("form", ["array", "list", "read-only"])
def test_it_finds_the_groups_that_scikit_learn_asks_for(form: str) -> None:
    """`check_clustering`, with as many iterations as a network needs: here two features are an image of 2x2 pixels."""
    made, classes = make_blobs(n_samples=50, random_state=1)
    features: Any = StandardScaler().fit_transform(made)
    if form == "list":
        features = features.tolist()
    elif form == "read-only":
        features.setflags(write=False)
    more = {"arch.width": 4, "latent_dim": 3, "batch": 25, "first_eval": 1000, "eval_every": 1000}
    model = tiny(
        n_clusters=3, preset="digits", iterations=150, image_shape="auto", invariant_to="shift=0.01", settings=more
    ).fit(features)
    assert adjusted_rand_score(model.labels_, classes) > 0.4
    assert model.labels_.dtype in (np.int32, np.int64)
    assert np.array_equal(np.unique(model.labels_), np.arange(3))


@pytest.fixture(scope="module")
def fitted() -> mpcc.MPCC:
    return tiny().fit(DIGITS)


def test_it_assigns_its_training_images_as_it_predicts_them(fitted: mpcc.MPCC) -> None:
    assert np.array_equal(fitted.labels_, fitted.predict(DIGITS))
    assert np.array_equal(fitted.labels_, fitted.predict_proba(DIGITS).argmax(1))
    assert np.array_equal(tiny().fit_predict(DIGITS), fitted.labels_)
    assert fitted.transform(DIGITS).shape == (80, 3)
    assert list(fitted.get_feature_names_out()) == ["mpcc0", "mpcc1", "mpcc2"]
    assert fitted.n_iter_ == 2
    assert fitted.results_["clusters"]["total"] == 4


@pytest.mark.parametrize(
    ("images", "image_shape", "shape"),
    [
        (DIGITS, None, (8, 8)),
        (DIGITS.reshape(80, 64), None, (8, 8)),
        (DIGITS.reshape(80, 64)[:, :30], (5, 6), (8, 8)),
        (DIGITS.reshape(80, 64)[:, :30], "auto", (8, 8)),
        (np.repeat(DIGITS[..., None], 3, 3), None, (8, 8, 3)),
        (np.repeat(DIGITS[:, None], 3, 1), None, (8, 8, 3)),
        (np.repeat(DIGITS[:, None], 3, 1).reshape(80, 192), (3, 8, 8), (8, 8, 3)),
        (torch.from_numpy(DIGITS), None, (8, 8)),
    ],
)
def test_it_takes_images_and_rows_of_features(images: Any, image_shape: Any, shape: tuple[int, ...]) -> None:
    model = tiny(image_shape=image_shape).fit(images)
    assert model.sample(3)[0].shape == (3, *shape)
    assert model.labels_.shape == (80,)


def test_rows_that_are_no_squares_are_refused_with_the_ways_out() -> None:
    with pytest.raises(InvalidInput, match=r"X has 30 features, .*image_shape=\(height, width\), or .*auto"):
        tiny().fit(DIGITS.reshape(80, 64)[:, :30])


@pytest.mark.parametrize("first", [DIGITS, DIGITS.astype(np.float32) / 16])
def test_other_images_are_read_with_the_range_of_the_training(first: Any) -> None:
    model = tiny().fit(first)
    few = np.concatenate([first[:5], first[-1:]])
    assert np.array_equal(model.predict(first[:1]), model.predict(few)[:1])
    dark = first[:6] * 0.5
    assert not np.array_equal(model.transform(dark), model.transform(first[:6]))


def test_it_leaves_the_random_states_and_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    tiny().fit(DIGITS)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.check
def test_a_script_is_not_told_anything_that_it_has_not_asked_for(tmp_path: Path) -> None:
    script = (
        "import mpcc, sklearn.datasets; "
        "mpcc.MPCC(arch='biggan8', preset='digits', iterations=2, settings={'arch.width': 1}, random_state=0)"
        ".fit(sklearn.datasets.load_digits().images[:60] * 1.3)"
    )
    command = [sys.executable, "-W", "ignore::UserWarning", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_it_is_quiet_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    tiny().fit(DIGITS)
    assert capfd.readouterr() == ("", "")
    tiny(verbose=1).fit(DIGITS)
    out, err = capfd.readouterr()
    assert out == ""
    assert "iteration 2/2" in err


def health(monkeypatch: pytest.MonkeyPatch, signs: Sequence[Symptom], restarts: Sequence[Any] = ()) -> None:
    """Let each training end with these signs and restarts."""
    monkeypatch.setattr(execution, "symptoms", lambda *_: signs)
    find = execution.Execution._find

    def found(self: execution.Execution, *given: Any) -> execution.Found:
        self.run.restarts = list(restarts)
        return find(self, *given)

    monkeypatch.setattr(execution.Execution, "_find", found)


@pytest.mark.filterwarnings("error")
def test_a_sound_fit_does_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    health(monkeypatch, [])
    tiny().fit(DIGITS)


def test_clusters_that_have_not_formed_are_a_convergence_warning_and_other_signs_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signs = [Symptom("empty_clusters", "too large --prior-lr"), Symptom("saturation", "lower --batch")]
    health(monkeypatch, signs, [{"iteration": 7, "from": 5, "reason": "not finite; lower --lr"}])
    with warnings.catch_warnings(record=True, action="always") as caught:
        model = tiny().fit(DIGITS)
    assert [(one.category, str(one.message)) for one in caught] == [
        (ConvergenceWarning, 'MPCC: too large settings["prior_lr"]'),
        (UserWarning, 'MPCC: lower settings["batch"]'),
        (
            UserWarning,
            "MPCC: the training broke down and went back to a checkpoint, 1 in all, the last time at iteration 7: "
            'not finite; lower settings["lr"]',
        ),
    ]
    # They point to the line of the caller.
    assert {one.filename for one in caught} == {__file__}
    assert model.labels_.shape == (80,)
    model = tiny()
    with warnings.catch_warnings(action="error"), pytest.raises(ConvergenceWarning):
        model.fit(DIGITS)
    assert model.predict(DIGITS).shape == (80,)


def test_too_few_iterations_are_told_with_what_to_change() -> None:
    with pytest.warns(
        ConvergenceWarning,
        match="after 2 iterations that is usual .clusters need 1,000 or more.: fit for longer, with more iter",
    ):
        tiny(settings={**TINY, "membership_weight": 0, "prior.scale_floor": 20}).fit(DIGITS)


def test_each_sign_is_told_in_parameters_of_the_estimator() -> None:
    sick = Vitals(
        sizes=(0, 100, 0, 0, 0),
        diversity=(0.0, 0.5, 0.5, 0.5, 0.5),
        saturation=0.9,
        posterior_entropy=0.99,
        agreement=0.0,
        hinge=0.0,
        spectral_norms={"generator": (1e6, "entry.weight")},
        real_terms=True,
        iterations=2,
    )
    found = [
        *symptoms(sick),
        *symptoms(attrs.evolve(sick, iterations=1900)),
        *symptoms(
            attrs.evolve(sick, sizes=(50,) * 5, two_peaks=(1,), iterations=1900, posterior_entropy=0.3, agreement=0.9)
        ),
    ]
    assert {*OF_FORMING, "two_groups", "saturation", "discriminator_won"} < {one.name for one in found}
    settings = {field.name for field in attrs.fields(RunSettings)}
    for one in found:
        text = in_python_words(one.message)
        assert "--" not in text
        assert "clusters/" not in text
        named = re.findall(r'settings(?:\[|=\{)"([\w.]+)"', text)
        assert all(name in settings or name.partition(".")[0] in SECTIONS for name in named), text
        parameters = mpcc.MPCC().get_params()
        assert all(name in parameters for name in re.findall(r"(\w+)=", text)), text
    texts = " ".join(in_python_words(one.message) for one in found)
    for part in ('settings={"balance_direction": "prior"}', "n_clusters=6", "fewer groups than n_clusters, or"):
        assert part in texts
    assert 'another settings["arch.conditioning"] (a new run' in texts


def test_a_kept_run_is_one_like_any_other(tmp_path: Path, fitted: mpcc.MPCC) -> None:
    folder = tmp_path / "kept"
    model = tiny(run_folder=folder).fit(DIGITS)
    assert np.array_equal(mpcc.load(folder, device="cpu").predict(DIGITS), model.labels_)
    assert np.array_equal(model.labels_, fitted.labels_)
    assert read_toml(folder / "config.toml", "x")[0]["data"]["path"] == str(folder / "images.npy")
    for words in (["evaluate", str(folder)], ["run", "--resume", str(folder), "--iterations", "3"]):
        with pytest.raises(SystemExit) as caught:
            entry.main(words)
        assert caught.value.code == 0
    with pytest.raises(InvalidInput, match="already exists"):
        tiny(run_folder=folder).fit(DIGITS)


@pytest.mark.parametrize("way", ["pickle", "save"])
def test_it_survives_being_written(tmp_path: Path, fitted: mpcc.MPCC, way: str) -> None:
    if way == "pickle":
        copy = pickle.loads(pickle.dumps(fitted))
        assert np.array_equal(copy.labels_, fitted.labels_)
    else:
        fitted.save(tmp_path / "saved")
        copy = mpcc.load(tmp_path / "saved", device="cpu")
    assert np.array_equal(copy.predict(DIGITS), fitted.labels_)


def test_after_a_fit_that_failed_it_is_not_fitted() -> None:
    model = tiny().fit(DIGITS)
    model.iterations = -1
    with pytest.raises(InvalidInput):
        model.fit(DIGITS)
    with pytest.raises(NotFittedError):
        model.predict(DIGITS)


@pytest.mark.parametrize("images", [np.zeros((20, 8, 8, 7)), DIGITS[:1]])
def test_errors_speak_of_x_and_not_of_files(images: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        tiny().fit(images)
    assert "/" not in str(caught.value).replace("--", "")


def test_it_leaves_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    tiny(settings={**TINY, "threads": before + 1}).fit(DIGITS)
    assert torch.get_num_threads() == before


def test_it_is_cloned_and_stands_in_a_pipeline(fitted: mpcc.MPCC) -> None:
    again = clone(fitted)
    assert not hasattr(again, "run_")
    half = FunctionTransformer(lambda images: images / 16)
    pipeline = make_pipeline(half, tiny()).fit(DIGITS)
    assert pipeline.predict(DIGITS[:5]).shape == (5,)


def test_it_can_be_fitted_in_a_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(tiny().fit(DIGITS).labels_))
    thread.start()
    thread.join()
    assert len(found) == 1
    assert found[0].shape == (80,)


def test_a_notebook_shows_the_samples_of_each_cluster(fitted: mpcc.MPCC) -> None:
    html = fitted._repr_mimebundle_()["text/html"]
    assert "<img src=" in html
    assert "<img" not in tiny()._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_clusters": 0}, "MPCC: run.clusters"),
        ({"n_clusters": 81}, "81 is more than the 80 images"),
        ({"prior": "gmmm"}, "gmm"),
        ({"arch": "biggan9"}, "biggan8"),
        ({"iterations": -1}, "MPCC: run.iterations"),
        ({"settings": {"prior.scale_flor": 1}}, "scale_floor"),
        ({"settings": {"priors.scale_floor": 1}}, "expected an option of prior"),
        ({"invariant_to": "shifts"}, "shift"),
        ({"image_shape": (5, 5)}, None),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_valid(parameters: dict[str, Any], message: str | None) -> None:
    if message is None:
        with pytest.raises(InvalidInput, match="as many as X has features"):
            tiny(**parameters).fit(DIGITS.reshape(80, 64))
        return
    with pytest.raises(InvalidInput, match=message):
        tiny(**parameters).fit(DIGITS)
