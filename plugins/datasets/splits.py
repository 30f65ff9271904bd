"""Published sets come in a train and a test part; clustering usually takes both."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["parts_of"]


def parts_of(split: str, train: Sequence[str], test: Sequence[str]) -> list[str]:
    """Return the parts that make up a split: those of ``train``, of ``test``, or of both in that order for ``all``.

    Arguments:
        split: ``all``, ``train`` or ``test``.
        train: Names of the parts to train on, such as files.
        test: Names of the parts to test on.

    Source:
        Method section 2: both parts joined, as is usual for clustering papers.

    Example:
        >>> parts_of("all", train=["batch_1", "batch_2"], test=["test_batch"])
        ['batch_1', 'batch_2', 'test_batch']
    """
    return [*(train if split != "test" else ()), *(test if split != "train" else ())]
