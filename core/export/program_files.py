"""Programs as files: written and read again, as torch.export (``.pt2``) or as ONNX (``.onnx``)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mpcc.core.errors import InvalidInput

__all__ = ["ENDINGS", "content", "opened"]

# The formats of programs.
ENDINGS = {"torch": ".pt2", "onnx": ".onnx"}
# The free dimension, as ONNX files name it.
ROWS = "batch"
# The largest file of ONNX, a protocol buffer.
LARGEST = 2**31 - 1

Opened = Callable[..., Sequence[Tensor]]


def content(program: ExportedProgram, format: str, inputs: Sequence[str], outputs: Sequence[str], name: str) -> bytes:
    """Return the content of a file.

    Arguments:
        program: From `mpcc.core.export.tracing.traced`.
        format: One of `ENDINGS`.
        inputs: The names of the inputs.
        outputs: The names of the outputs.
        name: What the program is, for errors.

    Raises:
        InvalidInput: If the format does not have what the program needs.
    """
    if format != "onnx":
        file = io.BytesIO()
        torch.export.save(program, file)
        return file.getvalue()
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch about itself
            made = torch.onnx.export(
                program, (), input_names=list(inputs), output_names=list(outputs), dynamo=True, verbose=False
            )
            assert made is not None, "torch.onnx.export returned nothing"
            model = made.model_proto
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidInput(f"{name} cannot be written as ONNX: {type(error).__name__}: {reason}") from error
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = ROWS
    if model.ByteSize() > LARGEST:
        raise InvalidInput(f"{name} cannot be written as ONNX: it is larger than {LARGEST:,} bytes; choose torch")
    return bytes(model.SerializeToString())


def opened(path: Path) -> Opened:
    """Read a file that was just written, and return the function that it holds, from tensors to tensors."""
    if path.suffix == ENDINGS["onnx"]:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]

        def run(*inputs: Tensor) -> list[Tensor]:
            given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            return [torch.from_numpy(value) for value in session.run(None, given)]

        return run
    with warnings.catch_warnings(action="ignore"):  # of torch about itself
        module = torch.export.load(path).module()

    def call(*inputs: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            found = module(*inputs)
        return (found,) if isinstance(found, Tensor) else found

    return call
