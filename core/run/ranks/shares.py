"""The parts of a batch: whether it can be divided among processes, and whether batch norms need all parts."""

from __future__ import annotations

import torch

from mpcc.core.config import RunSettings
from mpcc.core.errors import InvalidInput
from mpcc.core.layers.batch_norm import GroupedBatchNorm2d
from mpcc.core.method.model import Model
from mpcc.core.system import ranks

__all__ = ["check_share", "norms_together"]

# The batch of the paper; with fewer images, the moments of a batch norm are noisier than the paper's.
PAPER_BATCH = 50


def check_share(batch: int, count: int) -> None:
    """Check that a batch can be divided among processes.

    Arguments:
        batch: Images in each update.
        count: How many processes.

    Raises:
        InvalidInput: If it cannot, with the nearest batch that can.
    """
    if batch % count:
        nearest = max(1, round(batch / count)) * count
        raise InvalidInput(
            f"--batch {batch} cannot be divided among {count} processes: expected a multiple of {count} (nearest "
            f"valid choice: --batch {nearest})"
        )


def norms_together(settings: RunSettings, model: Model) -> bool:
    """Return whether batch norms take the moments of the whole batch if several ranks train.

    Raises:
        InvalidInput: If they are to, and a network has batch norms that cannot.
    """
    count = ranks.current().size
    share = settings.batch // count
    if count == 1 or settings.batch_norm == "rank" or (settings.batch_norm == "auto" and share >= PAPER_BATCH):
        return False
    for name, network in model.networks.by_name().items():
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and not isinstance(module, GroupedBatchNorm2d):
                raise InvalidInput(
                    f"--batch-norm {settings.batch_norm}: the {name} has a {type(module).__name__}, whose moments are "
                    f"those of each process's {share} images: expected mpcc.core.layers.batch_norm.GroupedBatchNorm2d "
                    f"(nearest valid choice: --batch-norm rank, or --batch {PAPER_BATCH * count})"
                )
    return True
