"""Options of the built-in architectures."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from mpcc.core.choice_fields import check_choices
from mpcc.core.errors import InvalidInput

__all__ = ["BigGANOptions"]

# "The best performance was obtained when sharing the first three residual blocks" (supplement, C).
MOST_SHARED = 3


def _unsupervised(instance: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    if value == "labels":
        raise InvalidInput(
            "labels would train the discriminator on the labels of the data set, and clustering must not see them: "
            "expected none or posterior (nearest valid choice: posterior)"
        )


@attrs.frozen(field_transformer=check_choices)
class BigGANOptions:
    """Options of the architectures ``biggan8``, ``biggan16``, ``biggan32`` and ``biggan64``."""

    width: int = attrs.field(
        default=12,
        validator=attrs.validators.ge(1),
        metadata={"help": "C of the paper's tables: every residual block has 4C channels"},
    )
    conditioning: Literal["embedding", "shared", "split"] = attrs.field(
        default="embedding",
        metadata={
            "help": "how z and y reach the generator's blocks: gains and biases are embeddings of y (embedding), or "
            "linear in an embedding of y and all of z (shared), or in it and a chunk of z for each block (split)"
        },
    )
    upsampling: Literal["bilinear", "nearest"] = attrs.field(
        default="bilinear", metadata={"help": "of the generator: bilinear as in the paper, nearest as in its code"}
    )
    shared_blocks: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(
            attrs.validators.and_(attrs.validators.ge(0), attrs.validators.le(MOST_SHARED))
        ),
        metadata={
            "help": "first blocks that discriminator and encoder share, 0 to 3; if not given, 3 from 32 pixels, 2 below"
        },
    )
    encoder_blocks: Literal["reference", "paper"] = attrs.field(
        default="reference",
        metadata={"help": "the encoder's blocks: those of the authors' code, or one plain block fewer as in the paper"},
    )
    projection: Literal["none", "posterior", "labels"] = attrs.field(
        default="none",
        validator=_unsupervised,
        metadata={
            "help": "whether the discriminator sees clusters: those that made the generated images, and the most "
            "probable ones of real images (posterior); labels is refused, it would be supervised"
        },
    )
    edges: bool = attrs.field(
        default=False,
        metadata={"help": "add the edges of the grey image (Sobel) to what discriminator and encoder see of an image"},
    )
    power_iterations: Literal["step", "forward"] = attrs.field(
        default="step",
        metadata={"help": "when spectral norms advance: at every optimizer step, or at every training forward"},
    )
