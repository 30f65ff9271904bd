"""Predictions that ranks share: each predicts batches of its own, and the first one collects them in rounds.

A round is a batch of each rank. The first rank holds no more than one round, and writes it while the others predict the
next one. What ends a rank in the middle takes the place of its batch, so that the first rank says it at its turn.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import attrs
from torch import Tensor

from mpcc.core.contracts import ImageSet, ImageSource
from mpcc.core.errors import InvalidInput, OutOfResources, PluginError, RankLost, TrainingDiverged
from mpcc.core.evaluation import inference
from mpcc.core.evaluation.inference import Prediction
from mpcc.core.images.read_ahead import in_order
from mpcc.core.method.model import Model
from mpcc.core.run.ranks.orders import agreed, digest
from mpcc.core.system import ranks

__all__ = ["check_alike", "failures_told", "predictions_in_rounds"]

# The errors of a user, the narrower before the wider.
KINDS = (PluginError, InvalidInput, OutOfResources, TrainingDiverged)


@attrs.frozen
class Failure:
    """What has ended a rank.

    Attributes:
        kind: The class of the error.
        text: Its message.
    """

    kind: type[Exception]
    text: str


def predictions_in_rounds(
    model: Model, images: Tensor | ImageSource, batch: int, *, workers: int = 0
) -> Iterator[Prediction]:
    """Predict all images, each rank some of the batches; a rank that is alone predicts all of them.

    Arguments:
        model: Encoder and prior, the same on all ranks.
        images: uint8, shape (N, D, R, R), the same on all ranks.
        batch: Images in each pass through the encoder.
        workers: The most processes of each rank that read ahead.

    Yields:
        On the first rank, a prediction for each batch, in order; on others, nothing.

    Raises:
        InvalidInput: If an image cannot be read, on this rank or, on the first one, on any.
    """
    together = ranks.current()
    own = in_order(images, batch, workers=workers, index=together.index, of=together.size)
    with contextlib.closing(own):
        predicted = inference.predictions(model, own, batch=batch)
        for start in range(0, images.shape[0], batch * together.size):
            here = start + together.index * batch < images.shape[0]
            of_round: list[Prediction | Failure | None] = together.collected(next(predicted) if here else None)
            for index, each in enumerate(of_round):
                if isinstance(each, Failure):
                    raise each.kind(f"process {index} of {together.size}: {each.text}")
                if each is not None:
                    yield each


@contextlib.contextmanager
def failures_told() -> Iterator[None]:
    """Let the first rank say what ends another one in a ``with`` block around `predictions_in_rounds`.

    Raises:
        SystemExit: On another rank, silently, after the first one has ended.
    """
    together = ranks.current()
    try:
        yield
    except RankLost:
        raise
    except KINDS as error:
        if together.first:
            raise
        kind = next(kind for kind in KINDS if isinstance(error, kind))
        with contextlib.suppress(RankLost):
            together.collected(Failure(kind, " ".join(str(error).split())))
            # A launcher that sees a process end stops the others, in the middle of what they say.
            together.told(None)
        raise SystemExit(error.status) from error


def check_alike(model: Model, data: ImageSet) -> None:
    """Check that all ranks have the same weights and the same images.

    Raises:
        InvalidInput: If files have changed while the ranks read them, or the machines have different files.
    """
    together = ranks.current()
    if together.alone:
        return
    paths = hashlib.sha256("\n".join(data.paths).encode("utf-8", "surrogateescape")).digest()
    own = {"another checkpoint": digest(model), "other images": (tuple(data.images.shape), paths)}
    found: list[dict[str, object]] = together.gathered(own)
    with agreed():
        for index, other in enumerate(found):
            for what in other:
                if other[what] != found[0][what]:
                    raise InvalidInput(
                        f"process {index} of {together.size} has found {what} than process 0: expected files that "
                        "stay as they are, the same on all machines"
                    )
