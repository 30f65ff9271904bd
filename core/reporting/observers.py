"""Observers: plugins that watch a run through ``run_started``, ``step_ended``, ``evaluated`` and ``run_ended``.

An observer that raises is reported once, by a warning, and not called again: no logger may end a training of days.
With ``MPCC_STRICT_PLUGINS=1`` it does.
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
        active: Those that have not failed.
        device: Of the run; the random state there is kept, too.
    """

    active: list[Observer]
    device: torch.device

    @classmethod
    def of(cls, observers: Iterable[Observer], device: torch.device) -> Observers:
        """Return all of them as active."""
        return cls(list(observers), device)

    def step_ended(self, iteration: int, terms: Any) -> None:
        """Tell the iteration's terms to those that want them."""
        # The one hook in the steady loop: no random state is saved and nothing is built if nobody listens.
        if any("step_ended" in observer.hooks for observer in self.active):
            self._notify("step_ended", iteration=iteration, terms=terms)

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
            except (Exception, SystemExit) as error:
                where = failing_file(observer.package, error) or observer.package
                text = (
                    f"observer {observer.origin!r} of {observer.distribution} {observer.version} ({where}): "
                    f"{hook}: {reason(error)}"
                )
                if strict_plugins():
                    raise PluginError(text) from error
                self.active.remove(observer)
                logger.warning("%s; it is not called again", text)
