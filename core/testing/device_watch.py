"""A watch on what makes the host wait for a device, and on tensors that stay on the host.

The meta device stands for an accelerator: its tensors have shapes and types, and no values that a host could read. So
an operation that reads one, or that puts a number of the host into one, can be seen without an accelerator.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mpcc.core.system.time_limits import Overdue
from mpcc.core.testing.examination import belongs

__all__ = ["META", "MOST", "DeviceWatch", "TooMany", "described", "without_autocast"]

META = torch.device("meta")
# Operations whose result or whose error the host has to know.
READING = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "_linalg_check_errors"),
    *("nonzero", "nonzero_numpy", "argwhere", "masked_select", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
    *("cholesky", "_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_lstsq"),
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
COPYING = {"_to_copy", "copy_", "copy", "lift_fresh", "lift_fresh_copy"}
# A loop that waits for a value would never end where values are made up.
MOST = 200
SHOWN = 4
# Modules that stand between the caller of an operation and its interception.
MACHINERY = ("torch._compile", "torch._dynamo", "torch._ops", "torch.utils._")


KIT = "mpcc.core.testing."


class TooMany(Exception):
    """One line has made the host wait many times: it is in a loop that may depend on what the host read."""


class DeviceWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside a ``with`` block, notes whatever makes the host wait for tensors of the meta device.

    What the host reads is made up: true, 1, or ones.

    Arguments:
        cls: The class whose lines are named.

    Attributes:
        found: What was computed when the host had to wait, by what it waited for and its place.
        strays: The same for tensors that have stayed on the host, which would fail on an accelerator.
        doing: What is being computed.
    """

    def __init__(self, cls: type) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cls = cls
        self.found: dict[str, list[str]] = {}
        self.strays: dict[str, list[str]] = {}
        self.doing = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Execute an operation on shapes, and note it if it makes the host wait."""
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        reason, moves, fails = fault(name, func, args, kwargs)
        if reason:
            self.note(self.strays if fails else self.found, f"aten.{name} {reason}")
        if moves:
            # It goes on, so that everything is found at once.
            args, kwargs = tree_map(lambda value: moved(value, META), (args, kwargs))
        if name == "_local_scalar_dense" and args[0].device == META:
            return made_up(args[0]).item()
        if name == "_to_copy" and args[0].device == META and torch.device(kwargs.get("device") or META) != META:
            return made_up(args[0]).to(kwargs.get("dtype") or args[0].dtype)
        if reason and name == "_linalg_check_errors":
            return None
        try:
            return func(*args, **kwargs)
        except RuntimeError:  # NotImplementedError is one
            # The operation has no version for shapes alone: it runs on made-up values.
            here = func(*tree_map(made_up, args), **tree_map(made_up, kwargs))
            # An operation in place returns its first argument.
            return args[0] if name.endswith("_") else tree_map(lambda value: moved(value, META), here)

    def note(self, findings: dict[str, list[str]], what: str) -> None:
        """Keep a finding under its description, with its place."""
        # From here: note, __torch_dispatch__, the caller.
        times = findings.setdefault(f"{what}{place_of(sys._getframe(2), self.cls)}", [])
        times.append(self.doing)
        if len(times) >= MOST:
            raise TooMany

    @contextlib.contextmanager
    def made_up_errors(self) -> Iterator[None]:
        """Leave out errors after the first finding, because a made-up value may have caused them."""
        try:
            yield
        except (KeyboardInterrupt, Overdue):
            raise
        except BaseException:
            if not (self.found or self.strays):
                raise


def described(findings: dict[str, list[str]]) -> str:
    """Return findings of a watch in one line."""
    lines = [f"{text}, computing {', '.join(dict.fromkeys(times))}" for text, times in findings.items()]
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more


def fault(name: str, func: Any, args: Any, kwargs: Any) -> tuple[str, bool, bool]:
    """Return what an operation does wrong, or nothing.

    Then: whether it takes a tensor from the host, and whether it would fail on an accelerator instead of waiting.
    """
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    on_device = any(tensor.device == META for tensor in tensors)
    strays = [tensor for tensor in tensors if tensor.device != META and tensor.ndim]
    if name in COPYING:
        return copied(name, args, kwargs), False, False
    if not on_device:
        return "", False, False
    if name in INDEXING:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            return "makes the host count the true values of a mask (choose torch.where)", False, False
        if any(index.device != META for index in indices):
            return "takes indices from the host", True, False
    if strays:
        return f"meets a tensor of shape {tuple(strays[0].shape)} that has stayed on the host", True, True
    checked = name.endswith("_ex") and kwargs.get("check_errors")
    if name in READING or checked or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        return "makes the host wait for a result", False, False
    return "", False, False


def copied(name: str, args: Any, kwargs: Any) -> str:
    """Return why a copy makes the host wait, or nothing."""
    if name.startswith("lift_fresh"):
        return "makes a tensor of the device from numbers of the host" if args[0].device == META else ""
    source, target = args[0].device, torch.device(kwargs.get("device") or args[0].device)
    if name in ("copy_", "copy"):
        source, target = args[1].device, args[0].device
    if source == target or META not in (source, target):
        return ""
    return "copies from the device to the host" if source == META else "copies from the host to the device"


def made_up(value: Any) -> Any:
    """Return ones in place of a tensor of the meta device; zeros for numbers that may be indices."""
    if not isinstance(value, Tensor) or value.device != META:
        return torch.device("cpu") if value == META else value
    if value.ndim and value.dtype == torch.int64:
        return torch.zeros(value.shape, dtype=value.dtype)
    return torch.ones(value.shape, dtype=value.dtype)


def moved(value: Any, device: torch.device) -> Any:
    """Return a tensor moved to a device, and anything else as it is."""
    return value.to(device) if isinstance(value, Tensor) else value


def place_of(frame: FrameType | None, cls: type) -> str:
    """Return where an operation was called: the innermost line of the plugin, and the innermost of all."""
    lines: list[tuple[bool, str]] = []
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(KIT) and frame.f_code.co_name == "watch":
            break
        if module != __name__ and not module.startswith(MACHINERY):
            lines.append((belongs(module, cls), f"{frame.f_code.co_filename}:{frame.f_lineno}"))
        frame = frame.f_back
    own = [line for of_plugin, line in lines if of_plugin][:1]
    inner = [line.rpartition("site-packages/")[2] for _, line in lines[:1]]
    if own and lines and own[0] == lines[0][1]:
        return f" at {own[0]}"
    return f" at {own[0]} (in {inner[0]})" if own else "".join(f" at {line}" for line in inner)


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Let `torch.autocast` do nothing, because the meta device has none."""
    start = torch.autocast
    torch.autocast = lambda *_, **__: contextlib.nullcontext()  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        torch.autocast = start  # type: ignore[misc]
