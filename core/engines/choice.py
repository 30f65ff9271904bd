"""The choice of engine and precision for a run on its device."""

from __future__ import annotations

import platform

import torch

from mpcc.core.config import RunSettings
from mpcc.core.engines.fast import FastEngine
from mpcc.core.errors import InvalidInput
from mpcc.core.layers.triton_kernels import available
from mpcc.core.method.engine import Engine, PlainEngine

__all__ = ["bf16_pays", "choose_engine", "computes_bf16", "computes_in"]


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bf16 itself, without emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.machine() in ("x86_64", "AMD64"):
        # With AVX-512, oneDNN accepts bf16 even without the instructions, and then computes in float32.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported


def computes_in(precision: str, device: torch.device) -> bool:
    """Return whether a device computes in a precision itself: ``float32``, ``tf32`` or ``bf16``."""
    if precision == "tf32":
        if device.type != "cuda":
            return False
        with torch.cuda.device(device):
            return bool(torch.cuda.is_tf32_supported())
    return precision == "float32" or computes_bf16(device)


def bf16_pays(device: torch.device) -> bool:
    """Return whether bf16 is faster than float32 on a device, because a matrix unit computes in it.

    With vector instructions only, an x86 processor may be slower in bf16 (docs/performance.md).
    """
    if device.type == "cpu" and platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_amx_tile_supported())
    return computes_bf16(device)


def choose_engine(settings: RunSettings, device: torch.device) -> Engine:
    """Return the engine that a run asks for.

    Raises:
        InvalidInput: If the device does not support the precision or the kernels, or the plain engine is to use another
            precision than float32 or other kernels than torch's.
    """
    precision, own_kernels = settings.precision, settings.kernels == "triton"
    if own_kernels and (settings.engine == "plain" or not available(device)):
        why = f"this {device.type} cannot run them; they need CUDA and the package triton"
        why = "the plain engine computes with torch alone" if settings.engine == "plain" else why
        raise InvalidInput(f"--kernels triton: {why} (nearest valid choice: --kernels torch)")
    if settings.engine == "plain":
        if precision not in ("float32", "auto"):
            raise InvalidInput(
                f"--precision {precision}: the plain engine computes in the precision of the parameters "
                "(nearest valid choice: --engine fast, or --precision float32)"
            )
        return PlainEngine()
    if precision == "auto":
        precision = "bf16" if bf16_pays(device) else "float32"
    if not computes_in(precision, device):
        only_cuda = precision == "tf32" and device.type != "cuda"
        why = "only CUDA devices have it" if only_cuda else f"this {device.type} has no {precision} arithmetic"
        raise InvalidInput(f"--precision {precision}: {why} (nearest valid choice: --precision float32)")
    return FastEngine(precision, own_kernels, settings.graph_reductions)
