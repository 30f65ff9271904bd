"""Which engine and which precision a run takes on its device."""

from __future__ import annotations

import platform

import torch

from mpcc.core.config import RunSettings
from mpcc.core.engines.fast import FastEngine
from mpcc.core.errors import InvalidInput
from mpcc.core.method.engine import Engine, PlainEngine

__all__ = ["bf16_pays", "choose_engine", "computes_bf16"]


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device has arithmetic in bf16, rather than imitating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN takes bf16 from AVX-512 on and computes in float32 where the instructions are missing.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    known: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return known


def bf16_pays(device: torch.device) -> bool:
    """Return whether bf16 is faster than float32 there: where a matrix unit computes in it.

    An x86 processor that has bf16 as vector instructions only may be slower with it (docs/performance.md).
    """
    if device.type == "cpu" and platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_amx_tile_supported())
    return computes_bf16(device)


def choose_engine(settings: RunSettings, device: torch.device) -> Engine:
    """Return the engine that a run asks for.

    Raises:
        InvalidInput: If the device does not have the precision, or the plain engine is to have another than float32.
    """
    precision = settings.precision
    if settings.engine == "plain":
        if precision not in ("float32", "auto"):
            raise InvalidInput(
                f"--precision {precision}: the plain engine computes in the precision of the parameters "
                "(nearest valid choice: --engine fast, or --precision float32)"
            )
        return PlainEngine()
    if precision == "tf32" and device.type != "cuda":
        raise InvalidInput("--precision tf32: only CUDA devices have it (nearest valid choice: --precision float32)")
    known = computes_bf16(device)
    if precision == "bf16" and not known:
        raise InvalidInput(
            f"--precision bf16: this {device.type} has no bf16 arithmetic (nearest valid choice: --precision float32)"
        )
    if precision == "auto":
        precision = "bf16" if bf16_pays(device) else "float32"
    return FastEngine(precision)
