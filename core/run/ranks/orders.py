"""What ranks do together: the first one runs the training and gives orders, the others carry them out.

Only the first rank knows the time, the signals, the files and the observers, so that ranks cannot disagree about what
comes next. An order is one small message. Between two orders, the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from mpcc.core.contracts import ImageSource
from mpcc.core.errors import InvalidInput, RankLost, RanksDiffer
from mpcc.core.evaluation.inference import Prediction, shared_predictions
from mpcc.core.method.model import Model
from mpcc.core.method.training import Trainer
from mpcc.core.system import ranks
from mpcc.core.system.randomness import random_states, restore_random_states
from mpcc.core.system.signals import handled

__all__ = ["Orders", "agreed", "digest", "follow"]


class Orders:
    """The first rank's side: each method lets all ranks do something, and does this rank's part of it.

    Arguments:
        trainer: Of this rank.
        images: The images, all of them on each rank: uint8, shape (N, D, R, R).
    """

    def __init__(self, trainer: Trainer, images: Tensor | ImageSource) -> None:
        self._trainer = trainer
        self._images = images
        self._ranks = ranks.current()
        # Whether the others wait for an order; after an error in the middle of a step they may not.
        self._heard = True

    def iterate(self) -> dict[str, Tensor]:
        """Carry out one iteration, see `Trainer.iterate`."""
        with self._given("iterate"):
            return self._trainer.iterate()

    def fit_prior(self) -> str:
        """Fit the prior, see `Trainer.fit_prior`."""
        with self._given("fit"):
            return self._trainer.fit_prior()

    def predictions(self, indices: Tensor) -> list[Prediction]:
        """Predict some images, each rank its part of them; the predictions are those of all, in order."""
        with self._given("predict", indices):
            return shared_predictions(self._trainer.model, self._images, indices)

    def hand_over(self) -> None:
        """Give the other ranks this one's state: weights, optimizers, place in the data, random numbers."""
        if not self._ranks.alone:
            with self._given("restore", packed({**self._trainer.state(), "random": random_states()})):
                pass

    def compare(self) -> None:
        """Check that all ranks have the same parameters.

        Raises:
            RanksDiffer: If they have not; the message names the processes that differ from the first.
        """
        if self._ranks.alone:
            return
        with self._given("compare"):
            first, *others = self._ranks.gathered(digest(self._trainer.model))
        apart = [str(index) for index, found in enumerate(others, 1) if found != first]
        if apart:
            raise RanksDiffer(
                f"iteration {self._trainer.iteration}: the parameters of process {', '.join(apart)} of "
                f"{self._ranks.size} are not those of process 0: expected machines that compute the same, with the "
                "same versions"
            )

    def end(self) -> None:
        """Let the other ranks stop following, once; those that do not wait for an order see this process end."""
        with contextlib.suppress(RankLost), self._given("end"):
            pass

    @contextlib.contextmanager
    def _given(self, order: str, value: Any = None) -> Iterator[None]:
        """Give an order to the others, and carry it out in the ``with`` block."""
        if self._ranks.alone:
            yield
            return
        if not self._heard:
            raise RankLost("after an error in the middle of a step, the other processes cannot go on")
        self._heard = False
        self._ranks.told((order, value))
        try:
            yield
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            self._heard = order == "iterate"  # see `iterated`
            raise
        self._heard = order != "end"


def follow(trainer: Trainer, images: Tensor | ImageSource) -> None:
    """Carry out the orders of the first rank until it ends them; signals are left to it.

    Arguments:
        trainer: Of this rank.
        images: The images, uint8, shape (N, D, R, R).
    """
    together, model = ranks.current(), trainer.model
    actions: dict[str, Callable[[Any], object]] = {
        "iterate": lambda _: iterated(trainer),
        "fit": lambda _: trainer.fit_prior(),
        "predict": lambda indices: shared_predictions(model, images, indices),
        "restore": lambda packed_state: restore(trainer, packed_state),
        "compare": lambda _: together.gathered(digest(model)),
    }
    with left_to_the_first():
        while True:
            order, value = together.told(None)
            if order == "end":
                return
            actions[order](value)


@contextlib.contextmanager
def left_to_the_first() -> Iterator[None]:
    """Ignore the signals that end a run in a ``with`` block: the first rank gets them, too, and decides."""

    def ignore(number: int, frame: FrameType | None) -> None:
        return None

    with handled(ignore):
        yield


def iterated(trainer: Trainer) -> None:
    """Carry out an iteration; if a prior breaks down, it does so on all ranks, and the first one decides."""
    with contextlib.suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        trainer.iterate()


def restore(trainer: Trainer, packed_state: bytes) -> None:
    """Put a trainer and the random states into the state that the first rank has handed over."""
    state = torch.load(io.BytesIO(packed_state), map_location="cpu", weights_only=True)
    trainer.restore(state)
    restore_random_states(state["random"], of_first_device=True)


def packed(state: dict[str, Any]) -> bytes:
    """Return a state as the bytes of a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def digest(model: Model) -> bytes:
    """Return a digest of all parameters of a model."""
    found = hashlib.sha256()
    for part in model.parts().values():
        for parameter in part.parameters():
            # A scalar cannot be viewed as bytes.
            values = parameter.detach().cpu().reshape(-1)
            found.update(values.view(torch.uint8).numpy().data)
    return found.digest()


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Let all ranks leave a ``with`` block with an error if one of them does; the first rank's error says which.

    Raises:
        InvalidInput: On the first rank, if only others have failed.
        SystemExit: On another rank, silently: the first one says what is wrong.
    """
    together, error = ranks.current(), None
    if together.alone:
        yield
        return
    try:
        yield
    except RankLost:
        raise
    except (Exception, SystemExit) as failure:
        error = failure
    told: Sequence[str | None] = together.gathered(None if error is None else " ".join(str(error).split()))
    failed = [index for index, text in enumerate(told) if text is not None]
    if not failed:
        return
    if not together.first:
        raise SystemExit(InvalidInput.status) from error
    if error is not None:
        raise error
    raise InvalidInput(f"process {failed[0]} of {together.size}: {told[failed[0]]}")
