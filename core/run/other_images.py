"""An evaluation of a trained model on images that it was not trained on: nothing of the training is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from mpcc.core.config import RunConfig
from mpcc.core.config.asked_images import AskedImages
from mpcc.core.contracts import ImageSet, Metric
from mpcc.core.evaluation.baseline import PixelBaseline
from mpcc.core.evaluation.evaluation import SAME_IMAGES, choose_images
from mpcc.core.evaluation.findings import Findings, feature_request, find
from mpcc.core.images.fingerprint import fingerprint
from mpcc.core.method.model import Model
from mpcc.core.registry import Registry
from mpcc.core.run.assembly import choose_device, choose_metrics, try_metrics
from mpcc.core.run.prediction import load_images
from mpcc.core.run.run import versions
from mpcc.core.run.saved_run import rebuilt_model

__all__ = ["OtherImages"]


@attrs.frozen(eq=False)
class OtherImages:
    """A trained model and other images than those of its run.

    Attributes:
        config: The run's configuration with the data set that reads the images.
        data: The images.
        model: The model of the checkpoint.
        metrics: By name.
        indices: The images to be evaluated, shape (N,).
        plugins: Name, distribution and version of every plugin in use.
        baseline: Clusters the pixels of the evaluated images, to be compared with the model.
    """

    config: RunConfig
    data: ImageSet
    model: Model
    metrics: Mapping[str, Metric]
    indices: torch.Tensor
    plugins: Mapping[str, str]
    baseline: PixelBaseline

    @classmethod
    def assemble(cls, registry: Registry, asked: AskedImages, state: Mapping[str, Any], source: Path) -> OtherImages:
        """Read the images and rebuild the model.

        Arguments:
            registry: The plugins.
            asked: The images, and the settings of the evaluation.
            state: A checkpoint, after `check_checkpoint`.
            source: Its file, for errors.

        Raises:
            InvalidInput: If the images cannot be read or do not fit the model, or a metric lacks what it needs.
        """
        settings = asked.config.run
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        device = choose_device(settings.device)
        metrics = choose_metrics(registry, settings.metrics, feature_request(settings), asked.config.metrics)
        data = load_images(asked, state["images"][1], once=False)
        model = rebuilt_model(asked.config, state, source, device)
        indices = choose_images(len(data), settings.eval_images, SAME_IMAGES)
        try_metrics(metrics, data, indices, settings, device)
        entries = [*asked.config.entries(), *(registry.entry("metric", name) for name in metrics)]
        plugins = {f"{entry.kind} {entry.name}": f"{entry.distribution} {entry.version}" for entry in entries}
        baseline = PixelBaseline(data, model.prior.clusters, settings.seed)
        return cls(asked.config, data, model, metrics, indices, plugins, baseline)

    def findings(self) -> Findings:
        """Evaluate the model on the images.

        Raises:
            TrainingDiverged: If latents or posteriors are not finite.
            PluginError: If a metric returns something other than finite numbers.
        """
        return find(self.model, self.data, self.indices, self.metrics, self.config.run, self.baseline)

    def record(self) -> dict[str, Any]:
        """Return what the result depends on, for ``results.json``."""
        return {
            "seed": self.config.run.seed,
            "data": {"images": list(self.data.images.shape), "fingerprint": fingerprint(self.data.images)},
            "device": str(self.model.device),
            "threads": torch.get_num_threads(),
            "plugins": dict(self.plugins),
            "versions": versions(),
        }
