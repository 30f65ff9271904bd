"""Observers: plugins that watch a run through the hooks from ``run_started`` to ``run_ended``.

If an observer raises, a warning reports it once, and the observer is not called again: no logger may end a training of
days. With ``MPCC_STRICT_PLUGINS=1``, the error ends the run.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from typing import Any

import attrs
import torch

from mpcc.core.errors import PluginError
from mpcc.core.registry import Observer, failing_file, reason, strict_plugins

__all__ = ["Observers"]

logger = logging.getLogger(__name__)


@attrs.define
class Observers:
    """The observers of one run.

    Attributes:
        active: The observers that have not failed.
        device: The device of the run; its random state is kept, too.
    """

    active: list[Observer]
    device: torch.device

    @classmethod
    def of(cls, observers: Iterable[Observer], device: torch.device) -> Observers:
        """Return all of them as active."""
        return cls(list(observers), device)

    def step_ended(self, iteration: int, terms: Any) -> None:
        """Pass the iteration's terms to the observers that have this hook."""
        # The only hook in the steady loop: without listeners, no random state is saved and nothing is built.
        if self.listen("step_ended"):
            self._notify("step_ended", iteration=iteration, terms=terms)

    def listen(self, hook: str) -> bool:
        """Return whether an observer has a hook."""
        return any(hook in observer.hooks for observer in self.active)

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call a hook of all observers; torch's random states stay as they were."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices) if self.active else contextlib.nullcontext():
            self._notify(hook, **arguments)

    def _notify(self, hook: str, **arguments: Any) -> None:
        for observer in list(self.active):
            caller = observer.hooks.get(hook)
            if caller is None:
                continue
            try:
                caller(**arguments)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                where = failing_file(observer.package, error) or observer.package
                text = (
                    f"observer {observer.origin!r} of {observer.distribution} {observer.version} ({where}): "
                    f"{hook}: {reason(error)}"
                )
                if strict_plugins():
                    raise PluginError(text) from error
                self.active.remove(observer)
                logger.warning("%s; it is not called again", text)
