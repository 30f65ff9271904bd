"""The clustering as an estimator in the way of scikit-learn."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import attrs
import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from mpcc.core.api.feature_rows import as_images
from mpcc.core.api.fit_warnings import warn_of_health
from mpcc.core.api.image_arrays import as_array, image_file
from mpcc.core.api.loaded_run import load
from mpcc.core.api.sheet_html import sheet_html
from mpcc.core.config import SECTIONS, Layer, RunConfig, environment_layer, resolve
from mpcc.core.errors import InvalidInput, OutOfResources, TrainingDiverged
from mpcc.core.registry import Registry, load_registry
from mpcc.core.reporting.messages import messages_shown
from mpcc.core.run.assembly import choose_device
from mpcc.core.run.execution import Stopped
from mpcc.core.run.whole_run import carry_out
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.system.randomness import own_randomness
from mpcc.core.system.resources import disk_errors
from mpcc.core.system.whole_files import whole_file

__all__ = ["MPCC"]

Array = np.ndarray[Any, Any]


class MPCC(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Cluster images with MPCC: `fit` trains a run and `predict` assigns clusters with it.

    Images are arrays of the shapes (N, H, W), (N, H, W, C) or (N, C, H, W), or rows of features (N, H W). They are
    converted to the size of the architecture. N images, K clusters, J latent dimensions.

    Arguments:
        n_clusters: K.
        prior: Name of the prior; by default that of the preset.
        arch: Name of the architecture; by default that of the preset.
        objective: Name of the objective, such as ``"vade"``; by default ``"mpcc"``. One without clusters needs an
            ``n_clusters`` of 1.
        preset: Name of the preset; by default the one for arrays, the architecture and the device.
        iterations: How long to train; by default that of the preset.
        minutes: How long `fit` may take instead.
        invariant_to: What leaves a group as it is, such as ``"shift,rotation=10"``; by default that of the preset.
        image_shape: The shape of an image of which X has rows, such as ``(28, 28)`` or ``(3, 32, 32)``. None takes
            rows for squares and refuses any other number of features. ``"auto"`` pads them to the next square.
        settings: Further settings by the name of their flag, such as ``{"batch": 100, "prior.scale_floor": 0.3}``.
        random_state: Seed; an int gives the same clusters each time on one machine.
        device: ``auto``, ``cpu`` or ``cuda``.
        run_folder: Where to keep the run; a new folder. By default it is removed after `fit`.
        verbose: 1 shows messages and a progress bar.

    Attributes:
        labels_: Cluster of each training image, int64, shape (N,).
        cluster_weights_: The weights phi of the clusters, float32, shape (K,).
        results_: The contents of the run's ``results.json``: scores, sizes of the clusters, warnings, times.
        n_iter_: Iterations of the training.
        run_: The trained run, `mpcc.core.api.loaded_run.LoadedRun`.
        n_features_in_: H W C, or the number of features of X.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> images = load_digits().images[:60]
        >>> model = MPCC(10, arch="biggan8", preset="digits", iterations=2, random_state=0).fit(images)
        >>> model.labels_.shape, model.predict_proba(images[:3]).shape, model.sample(4, cluster=2)[0].shape
        ((60,), (3, 10), (4, 8, 8))
    """

    def __init__(
        self,
        n_clusters: int = 10,
        *,
        prior: str | None = None,
        arch: str | None = None,
        objective: str | None = None,
        preset: str | None = None,
        iterations: int | None = None,
        minutes: float | None = None,
        invariant_to: str | None = None,
        image_shape: str | Sequence[int] | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
        run_folder: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.prior = prior
        self.arch = arch
        self.objective = objective
        self.preset = preset
        self.iterations = iterations
        self.minutes = minutes
        self.invariant_to = invariant_to
        self.image_shape = image_shape
        self.settings = settings
        self.random_state = random_state
        self.device = device
        self.run_folder = run_folder
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train a run on images.

        Arguments:
            X: Images, or rows of features.
            y: Ignored.

        Raises:
            InvalidInput: If X or a parameter is not valid; it is a ValueError.
            TrainingDiverged: If the training breaks down.
            KeyboardInterrupt: If the training is interrupted.

        Warns:
            ConvergenceWarning: At the end, for each sign that clusters have not formed, such as empty ones, often after
                too few iterations.
            UserWarning: At the end, for each other sign that the training has gone wrong.
        """
        if hasattr(self, "run_"):
            delattr(self, "run_")  # until this fit has succeeded
        images = as_images(self._checked(X, reset=True), self.image_shape)
        with self._folder() as folder, image_file(images) as path, self._own_state(), self._in_words_of_X(folder, path):
            registry = load_registry()
            config = self._config(registry, path, images)
            planned = RunFolder.plan(folder, config)
            with self._messages(), own_randomness(config.run.seed, choose_device(config.run.device)):
                try:
                    results = carry_out(registry, config, planned, resumed=False, bar=bool(self.verbose))
                except Stopped as stop:
                    lost = "fit was interrupted and nothing is kept; run_folder keeps a run, which can go on"
                    raise KeyboardInterrupt(lost if self.run_folder is None else str(stop)) from stop
                trained = load(planned.path, device=self.device)
                self.labels_ = trained.predict(images)
            self.results_ = results
            self.n_iter_ = results["iterations"]
            self.cluster_weights_ = trained.weights
            self.run_ = trained
            if self.run_folder is not None:
                keep_images(registry, planned, path)
        # The last thing, as a warning may be an error for the caller: the estimator is fitted by then.
        warn_of_health(results["health"], stacklevel=2)
        return self

    def predict(self, X: Any) -> Array:
        """Return the most probable cluster of each image, int64, shape (N,).

        Raises:
            InvalidInput: If X does not fit the images of the training.
        """
        images = self._images(X)
        return self.run_.predict(images)

    def predict_proba(self, X: Any) -> Array:
        """Return q(y|x), the mean of q(y|z) over the encoder's q(z|x), float32, shape (N, K).

        Raises:
            InvalidInput: If X does not fit the images of the training.
        """
        images = self._images(X)
        return self.run_.posterior(images)

    def transform(self, X: Any) -> Array:
        """Return the encoder's locations of z, float32, shape (N, J).

        Raises:
            InvalidInput: If X does not fit the images of the training.
        """
        images = self._images(X)
        return self.run_.transform(images)

    def inverse_transform(self, Z: Any, cluster: Any = None) -> Array:
        """Return the images that the generator makes of latents, uint8, (N, R, R) or (N, R, R, C).

        Arguments:
            Z: Latents, shape (N, J).
            cluster: One for all, or one of each; by default argmax q(y|z).
        """
        check_is_fitted(self, "run_")
        return self.run_.inverse_transform(Z, cluster)

    def sample(
        self, n_samples: int = 1, cluster: Any = None, *, random_state: Any = 0, truncation: float = 1.0
    ) -> tuple[Array, Array]:
        """Generate images and return them with their clusters, as scikit-learn's mixtures do.

        Arguments:
            n_samples: How many.
            cluster: One for all, or one of each; by default they are drawn from the prior.
            random_state: The same int gives the same images.
            truncation: The share of the drawn latents that is kept, those of the highest density in their cluster.
        """
        check_is_fitted(self, "run_")
        return self.run_.sample(n_samples, cluster, seed=seed_of(random_state), truncation=truncation)

    def score(self, X: Any, y: Any = None) -> float:
        """Return how good the clusters are, judged without labels; higher is better (`LoadedRun.score`).

        Arguments:
            X: Images.
            y: Ignored.
        """
        images = self._images(X)
        return self.run_.score(images)

    def save(self, folder: str | Path) -> None:
        """Write the trained run into a new folder, without pickled objects; `mpcc.load` and the commands read it."""
        check_is_fitted(self, "run_")
        self.run_.save(folder)

    @property
    def _n_features_out(self) -> int:
        return self.run_.latent_dim

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []  # latents are float32, whatever the type of the images
        return tags

    def _repr_html_inner(self) -> str:
        """Return the diagram of scikit-learn, and, after `fit`, samples of each cluster."""
        html: str = super()._repr_html_inner()
        return html + sheet_html(self.run_) if hasattr(self, "run_") else html

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle: dict[str, str] = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle and hasattr(self, "run_"):
            bundle["text/html"] += sheet_html(self.run_)
        return bundle

    def _checked(self, X: Any, *, reset: bool) -> Array:
        """Return X as an array of finite numbers, with its features counted or compared with those of `fit`."""
        rows: Array
        axes = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
        if axes <= 2:
            rows = validate_data(self, X, reset=reset, dtype="numeric", ensure_min_samples=2 if reset else 1)
            return rows
        images = as_array(X)
        if images.dtype.kind == "f" and not np.isfinite(images).all():
            raise InvalidInput("Input X contains NaN or infinity: expected finite numbers")
        features = int(np.prod(images.shape[1:]))
        if reset:
            self.n_features_in_ = features
        elif features != self.n_features_in_:
            name = type(self).__name__
            raise InvalidInput(
                f"X has {features} features, but {name} is expecting {self.n_features_in_} features as input"
            )
        return images

    def _images(self, X: Any) -> Array:
        check_is_fitted(self, "run_")
        return as_images(self._checked(X, reset=False), self.image_shape)

    def _config(self, registry: Registry, path: Path, images: Array) -> RunConfig:
        """Resolve the parameters to the configuration of a run."""
        tables: dict[str, dict[str, Any]] = {section: {} for section in ("run", *SECTIONS)}
        for name, value in (self.settings or {}).items():
            section, dot, option = name.replace("-", "_").partition(".")
            if dot and section not in SECTIONS:
                raise InvalidInput(f"settings: {name!r}: expected an option of {', '.join(SECTIONS)} before the dot")
            tables[section if dot else "run"][option if dot else section] = value
        run = {"iterations": self.iterations, "minutes": self.minutes, "invariant_to": self.invariant_to}
        tables["run"] |= {name: value for name, value in run.items() if value is not None}
        tables["run"] |= {"clusters": self.n_clusters, "seed": seed_of(self.random_state), "device": self.device}
        for section in ("prior", "arch", "objective"):
            if (name := getattr(self, section)) is not None:
                tables[section]["name"] = name
        layout = {"layout": "NHW"} if images.ndim == 3 else {}
        own = {"name": registry.defaults["data_file"], "path": path, "labels_key": "none", "memory": "load"}
        tables["data"] = {**layout, **tables["data"], **own}
        return resolve(registry, [environment_layer(), Layer("MPCC", tables)], self.preset)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """Lend the run folder: the one that the user named, or a temporary one."""
        if self.run_folder is not None:
            yield Path(self.run_folder).expanduser()
            return
        with tempfile.TemporaryDirectory(prefix="mpcc-") as temporary:
            yield Path(temporary) / "run"

    @contextlib.contextmanager
    def _own_state(self) -> Iterator[None]:
        """Restore the number of torch's threads, which a run may set."""
        threads = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    @contextlib.contextmanager
    def _in_words_of_X(self, folder: Path, path: Path) -> Iterator[None]:  # noqa: N802 - the name of the argument
        """Name X in errors, not the file that it was written to, and no folder that is gone."""
        try:
            yield
        except (InvalidInput, OutOfResources, TrainingDiverged) as error:
            text = str(error).replace(str(path), "X")
            if self.run_folder is None:
                text = "; ".join(part for part in text.split("; ") if str(folder) not in part) or text
            raise type(error)(text) from error

    def _messages(self) -> contextlib.AbstractContextManager[None]:
        return messages_shown() if self.verbose else contextlib.nullcontext()


def seed_of(random_state: Any) -> int:
    """Return a seed for what scikit-learn takes as a random state: an int, a generator, or None for a new seed."""
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def keep_images(registry: Registry, folder: RunFolder, path: Path) -> None:
    """Copy the images of a finished run into its folder, so that the commands find them, and name them there.

    Arguments:
        registry: The plugins.
        folder: Of the run.
        path: The file of the images.
    """
    from mpcc.core.run.saved_run import run_layer

    kept = folder.path / "images.npy"
    with disk_errors(f"{kept} could not be written"), path.open("rb") as source, whole_file(kept) as copy:
        shutil.copyfileobj(source, copy)
    layer = run_layer(folder.path)
    tables = {**layer.tables, "data": {**layer.tables["data"], "path": str(kept.absolute())}}
    folder.write_config(resolve(registry, [attrs.evolve(layer, tables=tables)], "none"))
