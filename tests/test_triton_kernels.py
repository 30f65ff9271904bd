"""Our own kernels for CUDA against their twins in torch, executed by Triton's interpreter on the CPU.

Triton decides on import whether it interprets, so everything runs in one new process. It rounds to bf16 towards zero,
unlike a GPU; so rounded results may be one digit off.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mpcc.core.config import RunSettings
from mpcc.core.engines.choice import choose_engine
from mpcc.core.errors import InvalidInput
from mpcc.core.layers.triton_kernels import available

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch came without triton")
PROGRAM = Path(__file__).with_name("interpreted_kernels.py")


@pytest.mark.check
@needs_triton
def test_interpreted_kernels_agree_with_torch() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(PROGRAM)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["weights", "moments", "relu", "network", "iterations"]


def test_they_need_cuda_and_the_fast_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cpu = torch.device("cpu")
    assert not available(cpu)
    for settings, why in [
        (RunSettings(kernels="triton"), "this cpu cannot run them; they need CUDA and the package triton"),
        (RunSettings(kernels="triton", engine="plain"), "the plain engine computes with torch alone"),
    ]:
        with pytest.raises(InvalidInput) as caught:
            choose_engine(settings, cpu)
        assert str(caught.value) == f"--kernels triton: {why} (nearest valid choice: --kernels torch)"
    assert not choose_engine(RunSettings(), cpu).own_kernels


def test_without_triton_they_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not available(torch.device("cpu"))
    assert not available(torch.device("cuda"))


# Types of the arguments of each program, as Triton names them, and its constants.
POINTERS = {"x": "*bf16", "scale": "*fp32", "shift": "*fp32", "out": "*bf16", "half": "*bf16", "table": "*i64"}
CONSTANTS = {
    "normalise": {"ROUND": True, "BLOCK": 1024},
    "partial_moments": {"CHANNELS": 32, "PIXELS": 64},
    "joined_moments": {"CHANNELS": 32, "PIXELS": 64},
    "scaled_relu": {"FACTOR": 2, "BILINEAR": True, "BLOCK": 1024},
}
COUNTS = ("pixels", "each", "channels", "splits", "numbers", "height", "width", "of_images")


@pytest.mark.check
@needs_triton
@pytest.mark.parametrize("name", CONSTANTS)
def test_the_programs_compile_for_a_gpu_that_is_not_there(name: str) -> None:
    code = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mpcc.core.layers import triton_programs
program = triton_programs.{name}
pointers, constants, counts = {POINTERS!r}, {CONSTANTS[name]!r}, {COUNTS!r}
types = {{
    argument: "constexpr" if argument in constants else "i32" if argument in counts else pointers.get(argument, "*fp32")
    for argument in program.arg_names
}}
made = triton.compile(ASTSource(program, types, constexprs=constants), target=GPUTarget("cuda", 90, 32))
print("ptx" in made.asm)
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["True"], done.stderr
