"""How CUDA's libraries choose kernels and round products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["kernel_settings"]


@contextlib.contextmanager
def kernel_settings(tf32: bool) -> Iterator[None]:
    """Let cuDNN look for the fastest kernels, and set whether float32 products may be rounded to TF32."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, tf32
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32):
            yield
    finally:
        matmul.allow_tf32 = before
