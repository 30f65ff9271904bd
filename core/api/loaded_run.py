"""A trained run as a Python object: clusters of images, latents, new images of each cluster."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from mpcc.core.api.image_arrays import read_images
from mpcc.core.config import Layer, RunConfig, environment_layer, resolve, used
from mpcc.core.config.layers import config_layer
from mpcc.core.config.locations import entries_of, places
from mpcc.core.contracts import ImageSet, ImageSource, Metric
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.best_score import BestScore, score_to_watch
from mpcc.core.evaluation.evaluated_images import ModelImages
from mpcc.core.evaluation.evaluation import evaluate, score
from mpcc.core.evaluation.findings import feature_request
from mpcc.core.evaluation.generation import Generation, Samples
from mpcc.core.evaluation.inference import Prediction, predictions
from mpcc.core.images.pictures import channels_last
from mpcc.core.method.model import Model
from mpcc.core.registry import Registry, load_registry
from mpcc.core.registry.attribution import attributed
from mpcc.core.run.assembly import choose_device, choose_metrics
from mpcc.core.run.saved_run import check_checkpoint, run_layer, trained_model
from mpcc.core.storage.checkpoint import load_checkpoint, save_checkpoint
from mpcc.core.studies.count_record import chosen_run
from mpcc.core.system.resources import disk_errors
from mpcc.core.system.toml_file import parse_toml
from mpcc.core.system.whole_files import check_new, new_folder, write_whole

__all__ = ["LoadedRun", "load"]

# What a saved model holds of a checkpoint as it is, and what is empty in it, because training cannot go on from there.
KEPT = ("iteration", "images", "fingerprint", "plugins", "versions", "threads", "executed", "config")
EMPTY: Mapping[str, Any] = {
    **{"stream": {}, "optimizers": {}, "random": {}, "seconds": 0.0, "evaluation_seconds": 0.0, "best": None},
    **{"restarts": [], "hinges": [], "gradient_norms": {}, "told": []},
}


logger = logging.getLogger(__name__)

# One computation at a time in the whole process: drawing seeds torch's global random state and restores it.
LOCK = threading.RLock()


def whole(name: str, value: Any) -> int:
    """Return a whole number of at least 1.

    Raises:
        InvalidInput: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidInput(f"{name}: expected a whole number, at least 1, got {value!r}")
    return int(value)


def load(run: str | Path, checkpoint: str | Path | None = None, *, device: str = "auto") -> LoadedRun:
    """Load a trained run; its training images are not needed.

    Arguments:
        run: The run folder that ``mpcc-run`` has written. Of a folder of seeds, the chosen run is taken.
        checkpoint: One of its checkpoints; by default the newest.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InvalidInput: If the folder holds no run, or the checkpoint does not belong to it.
    """
    folder = chosen_run(Path(run).expanduser())
    layer = run_layer(folder)
    source = folder / "checkpoints" / "last.pt" if checkpoint is None else Path(checkpoint).expanduser()
    return LoadedRun.of(layer, load_checkpoint(source), source, device)


class LoadedRun:
    """A model with its configuration; made by `load`, or by the estimator `MPCC`.

    Images are arrays (numpy, torch or nested lists) of the shapes (N, H, W), (N, H, W, C) or (N, C, H, W), or rows of
    H W values. They are converted as the data set ``arrays`` converts those of a file. In place of images, a path or a
    list of paths may be given, of folders, images, archives or files of arrays. The images that come back are
    uint8 arrays, (N, R, R) for grey and (N, R, R, C) for colour. N images, K clusters, J latent dimensions, R pixels.

    A loaded run can be pickled, and saved without pickle by `save`. Several threads may use it; their calls wait for
    each other, because drawing seeds the random state of the whole process.

    Attributes:
        config: Every setting of the run.
        iteration: How long it had been trained.
        image_shape: (D, R, R).
        model: The networks and the prior.
    """

    def __init__(self, registry: Registry, layer: Layer, config: RunConfig, model: Model, kept: Mapping[str, Any]):
        self._registry = registry
        self._layer = layer
        self._kept = dict(kept)
        self.model = model
        self.config = config
        self.iteration: int = kept["iteration"]
        self.image_shape: tuple[int, int, int] = tuple(kept["images"][1:])
        settings = config.run
        for part in model.parts().values():
            part.eval()
        self._generation = Generation(model, passes=settings.standing_passes, batch=settings.batch, seed=settings.seed)

    @classmethod
    def of(cls, layer: Layer, state: Mapping[str, Any], source: Path, device: str = "auto") -> LoadedRun:
        """Build the model of a checkpoint.

        Arguments:
            layer: The run's configuration.
            state: The checkpoint.
            source: Its file, for errors.
            device: ``auto``, ``cpu`` or ``cuda``.

        Raises:
            InvalidInput: If they do not belong together.
        """
        registry = load_registry(plugins=list(layer.plugins), registries=list(layer.registries))
        own = Layer("Python", {"run": {"device": device}})
        config = resolve(registry, [environment_layer(), layer, own], "none")
        check_checkpoint(dict(state), source, layer.tables, places(entries_of(registry, layer.tables)))
        with attributed(used(registry, config)):
            model = trained_model(config, state, source, choose_device(device))
        return cls(registry, layer, config, model, {name: state[name] for name in KEPT})

    @property
    def n_clusters(self) -> int:
        """K."""
        return self.model.prior.clusters

    @property
    def latent_dim(self) -> int:
        """J."""
        return self.model.prior.latent_dim

    @property
    def weights(self) -> np.ndarray[Any, Any]:
        """The weights phi of the clusters, float32, shape (K,)."""
        with torch.no_grad():
            return self._numpy(self.model.prior.weights().float())

    def predict(self, images: Any) -> np.ndarray[Any, Any]:
        """Return the most probable cluster of each image, int64, shape (N,).

        Raises:
            InvalidInput: If the images cannot be read, or have another number of channels than those of the training.
        """
        found = self._encoded(images, lambda prediction: prediction.clusters[:, None], 1)
        return found[:, 0].astype(np.int64)

    def posterior(self, images: Any) -> np.ndarray[Any, Any]:
        """Return q(y|x), the mean of q(y|z) over the encoder's q(z|x), float32, shape (N, K).

        Raises:
            InvalidInput: As `predict`.
        """
        return self._encoded(images, lambda prediction: prediction.posterior, self.n_clusters)

    def transform(self, images: Any) -> np.ndarray[Any, Any]:
        """Return the encoder's locations of z, float32, shape (N, J).

        Raises:
            InvalidInput: As `predict`.
        """
        return self._encoded(images, lambda prediction: prediction.locations, self.latent_dim)

    def inverse_transform(self, z: Any, cluster: Any = None) -> np.ndarray[Any, Any]:
        """Return the images that the generator makes of latents.

        Arguments:
            z: Shape (N, J).
            cluster: One for all, or one of each, shape (N,); by default argmax q(y|z).

        Raises:
            InvalidInput: If z has another shape, a value is not finite, or a cluster does not exist.
        """
        latents = self._latents(z)
        y = self._clusters(cluster, len(latents))
        with LOCK, torch.no_grad():
            if y is None:
                y = self.model.prior.log_responsibilities(latents.to(self.model.device)).argmax(1).cpu()
            return channels_last(self._generation.images(latents, y))

    def reconstruct(self, images: Any) -> np.ndarray[Any, Any]:
        """Return what the generator makes of each image's location and most probable cluster.

        Raises:
            InvalidInput: As `predict`.
        """
        width = self.latent_dim

        def both(prediction: Prediction) -> Tensor:
            return torch.cat([prediction.locations.float(), prediction.clusters[:, None].float()], dim=1)

        found = self._encoded(images, both, width + 1)
        return self.inverse_transform(found[:, :width], found[:, width].astype(np.int64))

    def sample(
        self, n: int = 10, cluster: Any = None, *, seed: int = 0, truncation: float = 1.0
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Generate images.

        Arguments:
            n: How many.
            cluster: One for all, or one of each, shape (n,); by default they are drawn from the prior.
            seed: The same seed gives the same images.
            truncation: The share of the drawn latents that is kept, those of the highest density in their cluster.

        Returns:
            The images and the cluster of each, int64, shape (n,).

        Raises:
            InvalidInput: If a value is not valid.
        """
        samples = self.generated(n, cluster, seed=seed, truncation=truncation)
        return channels_last(samples.images), self._numpy(samples.clusters)

    def generated(self, n: int = 10, cluster: Any = None, *, seed: int = 0, truncation: float = 1.0) -> Samples:
        """Return the same as `sample`, as tensors, with the latents.

        Raises:
            InvalidInput: If a value is not valid.
        """
        count = whole("n", n)
        y = self._clusters(cluster, count)
        with LOCK:
            return self._generation.sample(count if y is None else y, seed, truncation)

    def interpolate(
        self, cluster: Any, steps: int = 10, n: int = 1, *, seed: int = 0, truncation: float = 1.0
    ) -> Samples:
        """Return images on a straight line in z between two samples of a cluster, ``n`` lines of ``steps`` images.

        Arguments:
            cluster: One for all lines, or one of each, shape (n,).
            steps: Images of a line, both ends included.
            n: How many lines.
            seed: The same seed gives the same images.
            truncation: As in `sample`.

        Raises:
            InvalidInput: If a value is not valid.
        """
        y = self._clusters(cluster, whole("n", n))
        if y is None:
            raise InvalidInput("cluster: expected a number, got None")
        with LOCK:
            return self._generation.interpolate(y, whole("steps", steps), seed, truncation)

    def score(self, images: Any) -> float:
        """Return how good the clusters of images are, judged without labels; higher is better.

        It is the score by which a run with ``--best-by auto`` keeps its best checkpoint, ``kept_information`` of the
        built-in metrics.

        Raises:
            InvalidInput: As `predict`; or if no metric judges clusterings.
        """
        data = read_images(self._registry, self._layer, images, self.image_shape[0])
        settings, everything = self.config.run, torch.arange(len(data))
        metrics = choose_metrics(self._registry, "all", chosen_options=self.config.metrics)
        request = feature_request(settings)
        watched = score_to_watch("auto", metrics, (), request, self.n_clusters)
        if watched is None:
            raise InvalidInput("score: no metric judges clusterings without labels")
        with LOCK:
            return self._score(data, everything, watched, metrics)

    def _score(self, data: ImageSet, everything: Tensor, watched: BestScore, metrics: Mapping[str, Metric]) -> float:
        settings, request = self.config.run, feature_request(self.config.run)
        evaluation = evaluate(self.model, data, everything)
        shown = ModelImages(
            self.model,
            data,
            everything,
            evaluation,
            request=request,
            passes=settings.standing_passes,
            batch=settings.batch,
            seed=settings.seed,
        )
        judge = {name: one for name, one in metrics.items() if watched.name in one.scores(name, request)}
        value = score(judge, attrs.evolve(evaluation, images=shown))[watched.name]
        return value if watched.higher else -value

    def save(self, folder: str | Path) -> None:
        """Write a folder that `load` and the commands read, without pickled objects; training cannot go on from it.

        Arguments:
            folder: A new folder.

        Raises:
            InvalidInput: If it exists, or cannot be made.
        """
        path = Path(folder).expanduser()
        check_new(path, "folder", "folder")
        with disk_errors(f"{path} could not be written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_folder(path) as part:
                write_whole(part / "config.toml", self._kept["config"].encode())
                save_checkpoint(part / "checkpoints" / "last.pt", self._state())

    def __getstate__(self) -> dict[str, Any]:
        return {"state": self._state(), "device": self.config.run.device}

    def __setstate__(self, pickled: Mapping[str, Any]) -> None:
        state, device = pickled["state"], pickled["device"]
        if device == "cuda" and not torch.cuda.is_available():
            logger.warning("the pickled run was on CUDA, which is not available here: it is on the CPU now")
            device = "cpu"
        layer = config_layer(parse_toml(state["config"].encode(), "the pickled run"), "the pickled run")
        self.__dict__.update(vars(LoadedRun.of(layer, state, Path("pickle"), device)))

    def __repr__(self) -> str:
        channels, size, _ = self.image_shape
        names = f"prior {self.config.prior.name}, arch {self.config.arch.name}"
        return (
            f"<LoadedRun: {names}, {self.n_clusters} clusters, images {channels} x {size} x {size}, "
            f"{self.iteration} iterations>"
        )

    def _state(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self.model.parts().items()}
        on_cpu = {
            name: {key: value.detach().cpu() if isinstance(value, Tensor) else value for key, value in part.items()}
            for name, part in parts.items()
        }
        return {**EMPTY, **self._kept, "parts": on_cpu, "budget": {}}

    def _encoded(self, images: Any, wanted: Callable[[Prediction], Tensor], width: int) -> np.ndarray[Any, Any]:
        """Return a part of the predictions, float32, shape (N, width)."""
        source: Tensor | ImageSource = read_images(self._registry, self._layer, images, self.image_shape[0]).images
        found, start = np.empty((source.shape[0], width), dtype=np.float32), 0
        with LOCK:
            for prediction in predictions(self.model, source):
                rows = wanted(prediction)
                found[start : start + len(rows)] = self._numpy(rows)
                start += len(rows)
        return found

    def _latents(self, z: Any) -> Tensor:
        latents = torch.as_tensor(np.asarray(z, dtype=np.float32))
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise InvalidInput(f"z: expected the shape (N, {self.latent_dim}), got {tuple(latents.shape)}")
        if not bool(torch.isfinite(latents).all()):
            raise InvalidInput("z: expected finite numbers")
        return latents

    def _clusters(self, cluster: Any, count: int) -> Tensor | None:
        if cluster is None:
            return None
        given = np.asarray(cluster)
        if given.dtype.kind not in "iu" or given.shape not in ((), (count,)):
            raise InvalidInput(f"cluster: expected a whole number or {count} of them, got {cluster!r}")
        wrong = given[(given < 0) | (given >= self.n_clusters)]
        if wrong.size:
            nearest = min(max(int(wrong.flat[0]), 0), self.n_clusters - 1)
            raise InvalidInput(
                f"cluster {wrong.flat[0]}: expected 0 to {self.n_clusters - 1} (nearest valid choice: {nearest})"
            )
        return torch.as_tensor(np.broadcast_to(given, (count,)).astype(np.int64))

    @staticmethod
    def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
        return array
