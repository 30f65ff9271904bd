"""``python -m mpcc``: the command ``mpcc``; ``python -m mpcc run`` is ``mpcc-run``."""

from __future__ import annotations

from mpcc.core.commands.start import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
