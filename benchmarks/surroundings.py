"""What a measurement depends on beside the program: the machine, how busy it is, versions, the state of the source."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

__all__ = ["activity", "machine", "matrix_product_rate", "now", "source_state", "versions"]

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mpcc", "torch", "numpy", "scipy", "scikit-learn")
# What a processor has beside the plain instructions, by the names in /proc/cpuinfo.
EXTENSIONS = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX-512 bf16": "avx512_bf16", "AMX": "amx_tile"}
# Sources that a result depends on; results themselves and pages do not count.
SOURCES = ("core", "plugins", "benchmarks", "registry.toml", "pyproject.toml")


def now() -> str:
    """Return the date and the time of day in UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


def machine() -> dict[str, Any]:
    """Return the processor's name, its usable cores, its vector and matrix extensions, and the system."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    return {
        "processor": name[1].strip() if name else platform.processor() or platform.machine(),
        "cores": cores(),
        "extensions": [extension for extension, flag in EXTENSIONS.items() if flag in known],
        "system": platform.system(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matrix_product_rate(threads: int, seconds: float = 1.0, size: int = 1024) -> float:
    """Return how fast two float32 matrices are multiplied, in GFLOP/s.

    Arguments:
        threads: How many threads torch may use.
        seconds: How long to measure, at least one product.
        size: The matrices are size x size; a product has 2 size^3 operations.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = torch.rand(2, size, size, generator=torch.Generator().manual_seed(0))
        torch.mm(first, second)
        start, products = time.perf_counter(), 0
        while products == 0 or time.perf_counter() - start < seconds:
            torch.mm(first, second)
            products += 1
        return products * 2 * size**3 / (time.perf_counter() - start) / 1e9
    finally:
        torch.set_num_threads(before)


def activity(seconds: float = 1.0) -> dict[str, Any]:
    """Return how busy the machine is: the rate of a matrix product with one and all threads, and the load average.

    Arguments:
        seconds: How long each rate is measured.
    """
    load = [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
    return {
        "load_average": load,
        "gflops_one_thread": round(matrix_product_rate(1, seconds), 1),
        "gflops_all_threads": round(matrix_product_rate(cores(), seconds), 1),
        "all_threads": cores(),
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the version of Python and of installed distributions; those that are missing are left out."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def source_state(root: Path = ROOT) -> dict[str, Any] | None:
    """Return the commit of the source and whether its files differ from it; None without git.

    Arguments:
        root: A folder of the checkout.
    """
    try:
        commit = git(root, "rev-parse", "HEAD").strip()
        changed = git(root, "status", "--porcelain", "--", *SOURCES).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit[:12], "changed": bool(changed)}


def git(root: Path, *words: str) -> str:
    """Return what a git command prints."""
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout
