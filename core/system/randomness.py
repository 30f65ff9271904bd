"""The global random states: seed them, keep them, put them back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

__all__ = ["own_randomness", "random_states", "restore_random_states", "seed_everything"]


def random_states(*, cuda: bool = True) -> dict[str, Any]:
    """Return the states of all random generators: torch's, on the CPU and every CUDA device, NumPy's and Python's.

    Training draws only from torch's generators; plugins may draw from the others.

    Arguments:
        cuda: Whether those of CUDA devices are wanted.
    """
    on_devices = torch.cuda.get_rng_state_all() if cuda and torch.cuda.is_available() else []
    _, words, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "cpu": torch.get_rng_state(),
        "cuda": on_devices,
        "numpy": [torch.from_numpy(np.asarray(words, np.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, torch.tensor(internal, dtype=torch.int64), gauss],
    }


def restore_random_states(states: dict[str, Any], *, of_first_device: bool = False) -> None:
    """Restore `random_states`, except those of CUDA devices that are missing now.

    Arguments:
        states: As they were.
        of_first_device: Whether the present CUDA device gets the state of the first one.
    """
    torch.set_rng_state(states["cpu"])
    if states["cuda"] and of_first_device and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"][0])
    elif states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
    words, position, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", words.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))


def seed_everything(seed: int) -> None:
    """Seed torch's, NumPy's and Python's global random generators."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random states for the length of a ``with`` block, then restore the old ones.

    They are torch's on the CPU and on this device, NumPy's and Python's.
    """
    before = random_states(cuda=False)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_everything(seed)
        try:
            yield
        finally:
            restore_random_states(before)
