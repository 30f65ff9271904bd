"""Options of the built-in architectures."""

from __future__ import annotations

import attrs

__all__ = ["BigGANOptions"]


@attrs.frozen
class BigGANOptions:
    """Options of the architectures ``biggan8``, ``biggan16`` and ``biggan32``."""

    width: int = attrs.field(
        default=12,
        validator=attrs.validators.ge(1),
        metadata={"help": "C of the paper's tables: every residual block has 4C channels"},
    )
