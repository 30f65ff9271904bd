"""The kind of device that a run would take, found without loading torch on a machine that cannot have CUDA."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

__all__ = ["kind_of_device"]

# One of these exists where a driver of a GPU is loaded: NVIDIA's, that of its small boards, that of Linux in Windows,
# AMD's. Which GPU torch can use is torch's answer.
DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
HIDES_ALL = {"", "-1"}


def kind_of_device(asked: object) -> Literal["cpu", "cuda"]:
    """Return the kind of device that a value of ``--device`` stands for.

    Importing torch takes a second or more, so torch is asked only where a GPU may be.

    Arguments:
        asked: ``cpu``, ``cuda``, or anything else for the best that is there.
    """
    if asked == "cpu" or asked == "cuda":
        return asked
    if "torch" not in sys.modules and not may_have_gpu():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def may_have_gpu() -> bool:
    """Return whether this machine may have a GPU that is not hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in HIDES_ALL or sys.platform == "darwin":
        return False
    return sys.platform != "linux" or any(Path(driver).exists() for driver in DRIVERS)
