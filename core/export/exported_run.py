"""What is exported of a run: weights and programs, written into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from mpcc.core.api.loaded_run import LoadedRun
from mpcc.core.config import Layer, used
from mpcc.core.config.asked_images import asked_by_flags
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.generation import Generation
from mpcc.core.export.checked_programs import write_programs
from mpcc.core.export.program_files import ENDINGS
from mpcc.core.export.weights import part_files
from mpcc.core.registry import load_registry
from mpcc.core.registry.attribution import attributed
from mpcc.core.run.prediction import load_images
from mpcc.core.system.whole_files import write_whole

__all__ = ["ExportedRun"]

# Images on which programs are compared with mpcc.
EXAMPLES = 32


@attrs.frozen
class ExportedRun:
    """A run to be exported.

    Attributes:
        run: The run folder.
        layer: Its configuration.
        source: The file of the checkpoint.
        state: The checkpoint.
        formats: Some of `mpcc.core.export.formats.FORMATS`.
    """

    run: Path
    layer: Layer
    source: Path
    state: dict[str, Any]
    formats: Sequence[str]

    def write(self, folder: Path) -> list[str]:
        """Write the files of all formats.

        Arguments:
            folder: A folder that exists.

        Returns:
            How many files and numbers these are, then a line about each file that was compared with mpcc.

        Raises:
            InvalidInput: If the checkpoint or the model cannot be exported.
            OSError: If a file cannot be written.
        """
        files, numbers, lines = 0, "", []
        if "safetensors" in self.formats:
            from safetensors.torch import save

            parts = part_files(self.state, self.source)
            for part, content in parts.items():
                write_whole(folder / f"{part}.safetensors", save(*content))
            files = len(parts)
            numbers = f", {sum(value.numel() for tensors, _ in parts.values() for value in tensors.values()):,} numbers"
        if self.programs:
            loaded = LoadedRun.of(self.layer, self.state, self.source, "cpu")
            settings, model = loaded.config.run, loaded.model
            passes, batch, seed = settings.standing_passes, settings.batch, settings.seed
            generation = Generation(model, passes=passes, batch=batch, seed=seed)
            images, origin = self.examples(generation)
            described = f"prior {loaded.config.prior.name} and architecture {loaded.config.arch.name}"
            found = write_programs(model, generation, images, self.programs, folder, described)
            files += len(found)
            lines = [*map(str, found), origin]
        return [f"{files} files{numbers}", *lines]

    @property
    def programs(self) -> list[str]:
        """The formats of programs."""
        return [format for format in self.formats if format in ENDINGS]

    def examples(self, generation: Generation) -> tuple[Tensor, str]:
        """Return images for the comparison, uint8, shape (n, D, R, R), and a line that says what they are.

        They are images of the run or, if these cannot be read here, generated ones.
        """
        try:
            registry = load_registry(plugins=list(self.layer.plugins), registries=list(self.layer.registries))
            asked = asked_by_flags(registry, self.run, self.layer, {})
            with attributed(used(registry, asked.config)):
                source = load_images(asked, self.state["images"][1]).images
                chosen = torch.linspace(0, source.shape[0] - 1, min(EXAMPLES, source.shape[0])).long()
                return source[chosen], f"compared on {len(chosen)} images of the run"
        except InvalidInput as error:
            images = generation.sample(EXAMPLES, seed=0).images
            return (
                images,
                f"compared on {len(images)} generated images, because those of the run cannot be read: {error}",
            )
