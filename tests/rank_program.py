"""A training that one process or several carry out, for tests/test_ranks.py: writes what each rank found as JSON.

    python tests/rank_program.py OUT [--iterations N] [--permute] -- FLAGS OF MPCC-RUN
    python -m torch.distributed.run --nproc-per-node 2 tests/rank_program.py OUT ... -- ...

All parameters are in double precision.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from mpcc.core.commands.train import run_parser
from mpcc.core.config import SECTIONS, Layer, resolve
from mpcc.core.method.training import Trainer
from mpcc.core.registry import load_registry
from mpcc.core.run.assembly import build_model, build_trainer, fitted, load_data
from mpcc.core.run.ranks.environment import launched
from mpcc.core.run.ranks.orders import digest
from mpcc.core.system import ranks
from mpcc.core.system.randomness import seed_everything


def permuted(trainer: Trainer) -> None:
    """Let the batches of a trainer hold their images in another order."""
    take = trainer.stream.take

    def other_order(count: int, *, transformed: bool = False) -> Tensor:
        taken = take(count, transformed=transformed)
        generator = torch.Generator().manual_seed(trainer.iteration)
        orders = [torch.randperm(taken.shape[1], generator=generator) for _ in range(count)]
        orders *= 2 if transformed else 1
        return torch.stack([batch[order] for batch, order in zip(taken, orders, strict=True)])

    trainer.stream.take = other_order  # type: ignore[method-assign]


def main() -> None:
    """Train and write."""
    split = sys.argv.index("--")
    out, words = Path(sys.argv[1]), sys.argv[2:split]
    iterations = int(words[words.index("--iterations") + 1]) if "--iterations" in words else 5
    torch.set_num_threads(1)
    registry = load_registry()
    typed = run_parser().read(sys.argv[split + 1 :], SECTIONS)
    with ranks.joined(cuda=False) if launched() else contextlib.nullcontext(ranks.current()) as together:
        config = resolve(registry, [Layer("flag", typed.tables)])
        data = load_data(config)
        config = fitted(config, len(data))
        seed_everything(config.run.seed)
        model = build_model(config, data.images.shape[1], torch.device("cpu"))
        for part in model.parts().values():
            part.double()
        trainer = build_trainer(config, model, data.images)
        if "--permute" in words:
            permuted(trainer)
        terms = []
        with trainer.engine.active():
            for _ in range(iterations):
                terms.append({name: float(value) for name, value in trainer.iterate().items()})
        found = {
            "terms": terms,
            "parameters": digest(model).hex(),
            "random": torch.get_rng_state().tolist(),
            "bytes": dict(together.bytes),
            "sizes": {name: sum(p.numel() for p in part.parameters()) for name, part in model.trained_parts().items()},
        }
    out.with_name(f"{out.name}-{together.index}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
