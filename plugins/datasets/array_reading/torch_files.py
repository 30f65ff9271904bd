"""Files of `torch.save`, read without running code in them."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.reading.pickles import ArrayInParts, numpy_names

__all__ = ["load_torch"]

_LONGEST_NAME = 100
_LEVELS = 4  # the deepest container of arrays is a list of pairs in a dict


class _TensorDataset:
    """Stands for ``torch.utils.data.TensorDataset`` in a file: the tensors and nothing else."""

    tensors: object = ()

    def __setstate__(self, state: Any) -> None:
        self.tensors = state["tensors"]


def load_torch(path: Path) -> object:
    """Read a file of `torch.save`; tensors stay in the file if it is a zip archive, as it is since torch 1.6.

    Returns:
        A tensor, array, number, text, list, tuple or dict, or any nesting of these. A ``TensorDataset`` comes as the
        tuple of its tensors.

    Raises:
        InvalidInput: If it holds an object of another class; the message names the class.
        Exception: If it is broken; the types are many.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "pair.pt")
        ...     torch.save(torch.utils.data.TensorDataset(torch.zeros(2), torch.ones(2)), path)
        ...     load_torch(path)
        (tensor([0., 0.]), tensor([1., 1.]))
    """
    stands: list[Any] = [*numpy_names(), (_TensorDataset, "torch.utils.data.dataset.TensorDataset")]
    try:
        with torch.serialization.safe_globals(stands):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # torch's own message is long and proposes to run the code in the file.
        name = re.search(r"GLOBAL ([\w.]+) was not an allowed", str(error))
        if name is None:
            raise ValueError("it holds more than tensors, arrays, numbers and texts") from error
        raise InvalidInput(
            f"{path}: it holds an object of {name[1][:_LONGEST_NAME]}, whose reading would run code of the file: "
            "expected tensors, arrays, numbers or texts, by name or in a list; if you trust the file, load it in "
            "Python and save its tensors with torch.save({'images': images, 'labels': labels}, 'new.pt')"
        ) from error
    return _plain(loaded)


def _plain(value: object, levels: int = _LEVELS) -> object:
    """Replace what stands for classes by its contents, in a value and a few levels of containers."""
    if isinstance(value, ArrayInParts):
        return value.array
    if levels == 0:
        return value
    if isinstance(value, _TensorDataset):
        return _plain(value.tensors, levels - 1)
    if isinstance(value, Mapping):
        return {key: _plain(item, levels - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, levels - 1) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value
