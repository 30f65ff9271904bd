"""Both programs of a run in files, each of which is read again and compared with what mpcc computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.generation import Generation
from mpcc.core.evaluation.inference import predict
from mpcc.core.export.program_files import ENDINGS, content, opened
from mpcc.core.export.programs import EncoderProgram, GeneratorProgram
from mpcc.core.export.tracing import traced
from mpcc.core.method.model import Model
from mpcc.core.system.whole_files import write_whole

__all__ = ["Comparison", "write_programs"]

# How many rows a file is tried with.
BATCHES = (1, 2, 7, 32)
# The largest difference of numbers, relative for those above 1; and of pixels, which may be rounded to the next value.
TOLERANCE = 1e-4
PIXEL_TOLERANCE = 1


@attrs.frozen
class Comparison:
    """How far the results of a file were from those of mpcc.

    Attributes:
        file: The file.
        largest: The largest difference: of pixels in grey levels, of other numbers relative if they are above 1.
        pixels: Whether these are pixels.
        batches: How many rows were tried.
    """

    file: Path
    largest: float
    pixels: bool
    batches: Sequence[int]

    def __str__(self) -> str:
        unit = " of 255 grey levels" if self.pixels else ""
        *first, last = map(str, self.batches)
        return f"{self.file.name}: largest difference from mpcc {self.largest:.2g}{unit}, at {', '.join(first)} " + (
            f"and {last} images"
        )


@attrs.frozen(eq=False)
class Part:
    """One of the programs, with examples.

    Attributes:
        name: Name of the file, without its ending.
        module: What it computes.
        inputs: The examples by name, each with rows for the largest batch.
        outputs: What mpcc makes of them, by name.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def write_programs(
    model: Model, generation: Generation, images: Tensor, formats: Sequence[str], folder: Path, described: str
) -> list[Comparison]:
    """Write ``encoder`` and ``generator`` in each format, and compare every file with mpcc.

    Arguments:
        model: On the CPU.
        generation: Of the model.
        images: Some for the comparison, uint8, shape (N, D, R, R).
        formats: Some of `ENDINGS`.
        folder: A folder.
        described: Prior and architecture in words, for errors.

    Raises:
        InvalidInput: If the model cannot be exported, or a file computes something else.
    """
    found = []
    for part in parts_of(model, generation, images):
        examples = [value[:3] for value in part.inputs.values()]
        program = traced(part.module, examples, f"the {part.name} of {described}")
        for format in formats:
            path = folder / f"{part.name}{ENDINGS[format]}"
            write_whole(path, content(program, format, [*part.inputs], [*part.outputs], f"the {part.name}"))
            found.append(compared(path, part))
    return found


def parts_of(model: Model, generation: Generation, images: Tensor) -> list[Part]:
    """Return both programs with their examples, as many as the largest batch has."""
    count = max(BATCHES)
    images = images[torch.arange(count) % len(images)]
    prediction, samples = predict(model, images), generation.sample(count, seed=0)
    encoder = EncoderProgram(model.networks.encoder, model.prior)
    generator = GeneratorProgram(generation.standing(), model.prior)
    return [
        Part(
            "encoder",
            encoder,
            {"images": images},
            {"z": prediction.locations.float(), "posterior": prediction.posterior.float()},
        ),
        Part("generator", generator, {"z": samples.z, "y": samples.clusters}, {"images": samples.images}),
    ]


def compared(path: Path, part: Part) -> Comparison:
    """Compare a file with mpcc, for several numbers of rows.

    Raises:
        InvalidInput: If it cannot be used, or computes something else.
    """
    largest, pixels = 0.0, all(value.dtype == torch.uint8 for value in part.outputs.values())
    tolerance = PIXEL_TOLERANCE if pixels else TOLERANCE
    try:
        run = opened(path)
        for rows in BATCHES:
            outputs = run(*(value[:rows].contiguous() for value in part.inputs.values()))
            for found, expected in zip(outputs, part.outputs.values(), strict=True):
                largest = max(largest, difference(found, expected[:rows]))
                if not largest <= tolerance:
                    raise InvalidInput(
                        f"{path.name} computes something else than mpcc: the largest difference is {largest:.2g} for "
                        f"{rows} images, expected at most {tolerance:g}; nothing was exported"
                    )
    except InvalidInput:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidInput(f"{path.name} cannot be used again: {type(error).__name__}: {reason}") from error
    return Comparison(path, largest, pixels, BATCHES)


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to numbers above 1 that are no pixels; infinite if one is not finite.

    Raises:
        ValueError: If shape or type differ.

    Example:
        >>> difference(torch.tensor([1.5, 100.0]), torch.tensor([1.0, 110.0]))
        0.5
    """
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        raise ValueError(f"{found.dtype} {tuple(found.shape)}, expected {expected.dtype} {tuple(expected.shape)}")
    far = (found.double() - expected.double()).abs()
    if found.dtype != torch.uint8:
        far = far / expected.double().abs().clamp(min=1)
    return float(far.max()) if bool(torch.isfinite(far).all()) else float("inf")
