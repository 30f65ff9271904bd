"""How CUDA's libraries choose kernels and round products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["exact_products", "full_precision", "kernel_settings"]


@contextlib.contextmanager
def kernel_settings(*, tf32: bool, try_kernels: bool = True) -> Iterator[None]:
    """Set how CUDA computes for the length of a ``with`` block; what is not named here stays as the caller has it.

    Arguments:
        tf32: Whether the factors of float32 products may be rounded to TF32.
        try_kernels: Whether cuDNN tries its kernels on every shape that is new and keeps the fastest. This pays if the
            same shapes come again and again. Otherwise cuDNN chooses by rules, which also gives the same kernel each
            time.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, tf32
    try:
        with cudnn.flags(
            enabled=cudnn.enabled,
            benchmark=try_kernels,
            benchmark_limit=cudnn.benchmark_limit,
            deterministic=cudnn.deterministic,
            allow_tf32=tf32,
        ):
            yield
    finally:
        matmul.allow_tf32 = before


@contextlib.contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Round no factor of a matrix product to TF32 for the length of a ``with`` block; autocast stays as it is."""
    matmul = torch.backends.cuda.matmul
    if device.type != "cuda" or not matmul.allow_tf32:
        yield
        return
    matmul.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32 = True


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in the precision of the tensors for the length of a ``with`` block, whatever training's settings are.

    Autocast is off. On CUDA no product is rounded to TF32, and no kernels are tried: evaluations take batches of many
    sizes, each only a few times.

    Arguments:
        device: The device that computes.
    """
    exact = kernel_settings(tf32=False, try_kernels=False) if device.type == "cuda" else contextlib.nullcontext()
    with torch.autocast(device.type, enabled=False), exact:
        yield
