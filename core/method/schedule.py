"""The schedule: batch size, numbers of updates and step sizes of an iteration."""

from __future__ import annotations

import math

import attrs

__all__ = ["Schedule"]


@attrs.frozen
class Schedule:
    """Batch size, numbers of updates and step sizes of an iteration.

    Attributes:
        batch: Images in each update, real and generated.
        d_steps: Discriminator updates.
        e_steps: Encoder updates.
        lr: Adam's step size for the networks.
        prior_lr: Adam's step size for the prior, eta_p.
        ema_decay: Decay of the generator's average.
        ema_start: The first iteration that is averaged; before it the average is a copy.
        iterations: Length of the run; a decay of the step sizes and a fit of the prior need it.
        lr_decay: Share of the iterations, at the end, in which all step sizes fall linearly to 0. The paper's step
            sizes are constant, 0 here (supplement, C); the decay is ours.
        real_terms_rise: Iterations over which the terms on real images rise to their weights.
        generator_lr_factor: The generator's step size in units of ``lr``, 1 in the paper. A smaller one comes from
            Heusel et al. (GANs trained by a two time-scale update rule, 2017).
        prior_fit: Share of the iterations after which the prior is fitted to the latents of real images
            (`mpcc.core.method.prior_fit`); 0 for never.
        prior_refit: Share of the iterations after which the prior is fitted once more; 0 for never.
        prior_fit_groups: How their latents are grouped for that, ``k-means`` or ``mixture``.

    Raises:
        ValueError: If step sizes are to fall or the prior is to be fitted but the number of iterations is not known.
    """

    batch: int
    d_steps: int
    e_steps: int
    lr: float
    prior_lr: float
    ema_decay: float
    ema_start: int
    iterations: int | None = None
    lr_decay: float = 0.0
    real_terms_rise: int = 200
    generator_lr_factor: float = 1.0
    prior_fit: float = 0.0
    prior_refit: float = 0.0
    prior_fit_groups: str = "k-means"

    def __attrs_post_init__(self) -> None:
        """Check that a share of the iterations knows their number."""
        for name in ("lr_decay", "prior_fit"):
            if getattr(self, name) > 0 and self.iterations is None:
                raise ValueError(f"{name} {getattr(self, name)}: expected the number of iterations, too")

    def prior_fit_due(self, done: int) -> bool:
        """Return whether the prior should have been fitted to real images before the next iteration.

        Example:
            >>> schedule = Schedule(50, 4, 4, 2e-4, 1e-3, 0.99, 0, iterations=10, prior_fit=0.25)
            >>> [schedule.prior_fit_due(done) for done in (0, 2, 3, 9)]
            [False, False, True, True]
        """
        if self.iterations is None or self.prior_fit == 0:
            return False
        # A fit after the last iteration would be no part of the run.
        return done >= min(math.ceil(self.prior_fit * self.iterations), self.iterations - 1)

    def prior_refit_due(self, done: int) -> bool:
        """Return whether the prior should have been fitted a second time before the next iteration.

        Example:
            >>> schedule = Schedule(50, 4, 4, 2e-4, 1e-3, 0.99, 0, iterations=10, prior_fit=0.25, prior_refit=0.5)
            >>> [schedule.prior_refit_due(done) for done in (3, 4, 5, 9)]
            [False, False, True, True]
        """
        if self.iterations is None or not 0 < self.prior_fit < self.prior_refit:
            return False
        return done >= min(math.ceil(self.prior_refit * self.iterations), self.iterations - 1)

    def real_terms_factor(self, done: int) -> float:
        """Return the factor on the terms on real images after ``done`` iterations.

        Example:
            >>> Schedule(50, 4, 4, 2e-4, 1e-3, 0.99, 0, real_terms_rise=200).real_terms_factor(50)
            0.25
        """
        return min(done / self.real_terms_rise, 1.0) if self.real_terms_rise else 1.0

    def step_size(self, part: str) -> float:
        """Return the step size of ``discriminator``, ``generator``, ``encoder`` or ``prior`` before it falls.

        Example:
            >>> schedule = Schedule(50, 4, 4, 4e-4, 1e-3, 0.99, 0, generator_lr_factor=0.25)
            >>> [schedule.step_size(part) for part in ("generator", "encoder", "prior")]
            [0.0001, 0.0004, 0.001]
        """
        if part == "prior":
            return self.prior_lr
        return self.lr * self.generator_lr_factor if part == "generator" else self.lr

    def lr_factor(self, done: int) -> float:
        """Return the factor on all step sizes after ``done`` iterations; it never reaches 0.

        Example:
            >>> schedule = Schedule(50, 4, 4, 2e-4, 1e-3, 0.99, 0, iterations=10, lr_decay=0.4)
            >>> [schedule.lr_factor(done) for done in range(10)]
            [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
        """
        if self.iterations is None or self.lr_decay == 0:
            return 1.0
        left = max(self.iterations - done, 1)
        return min(1.0, left / (self.lr_decay * self.iterations))
