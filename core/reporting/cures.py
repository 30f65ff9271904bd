"""What a user can change against a symptom: a value for a new run, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mpcc.core.config.settings import RunSettings
from mpcc.core.reporting.vitals import Vitals

__all__ = ["NETWORKS", "cure"]

# The parts whose gradients are judged. That of a prior may be small for good.
NETWORKS = ("generator", "discriminator", "encoder")

SLOWER = "half, so that clusters need up to twice as many iterations"


def cure(name: str, settings: RunSettings, measured: Vitals) -> str:
    """Return the cure of a symptom: flags with values for a new run, and in brackets what they cost.

    Arguments:
        name: Of the symptom.
        settings: Of the run.
        measured: What the symptom was recognised in.

    Example:
        >>> measured = Vitals((50, 50), (0.5, 0.4), 0.0, 0.2, 0.9, 0.01, {})
        >>> cure("discriminator_won", RunSettings(d_steps=4), measured)
        'in a new run, --d-steps 2 (an iteration takes less time)'
    """
    return f"in a new run, {CURES[name](settings, measured)}"


def half(flag: str, value: float) -> str:
    """Return a flag with half of its value.

    Example:
        >>> half("lr", 7e-4)
        '--lr 0.00035'
    """
    return f"--{flag} {value / 2:.3g}"


def slower_prior(settings: RunSettings, measured: Vitals) -> str:
    """Return a smaller step size of the prior, or of the networks if the prior is fixed."""
    return f"{half('lr', settings.lr) if measured.prior_is_fixed else half('prior-lr', settings.prior_lr)} ({SLOWER})"


def pretrained(settings: RunSettings, measured: Vitals) -> str:
    """Return the start as an autoencoder, for a run of an objective that has one and did not use it."""
    without = not measured.has("membership") and not settings.prior_fit
    return "--prior-fit 0.2 (an autoencoder is trained before it), or " if without else ""


def fewer_groups(settings: RunSettings, measured: Vitals) -> str:
    used = sum(size > 0 for size in measured.sizes)
    slower = pretrained(settings, measured) + slower_prior(settings, measured)
    return slower if used < 2 else f"--clusters {used}, if there are no more groups (costs no more time), or {slower}"


def freer_images(settings: RunSettings, measured: Vitals) -> str:
    if measured.has("label_divergence"):
        return pretrained(settings, measured) + slower_prior(settings, measured)
    choices = []
    if settings.balance_direction == "images":
        choices.append("--balance-direction prior (costs no time; it draws images into empty clusters)")
    if settings.consistency_weight:
        weaker = half("consistency-weight", settings.consistency_weight)
        choices.append(f"{weaker} (less help from the changes of --invariant-to)")
    if not choices:
        weight = 2 * settings.balance_weight or 3.2
        choices.append(f"--balance-weight {weight:.3g} (clusters become more equal than the groups may be)")
    return ", or ".join(choices)


def varied_samples(settings: RunSettings, measured: Vitals) -> str:
    if not measured.has("data_discriminator"):
        return slower_prior(settings, measured)
    generator, prior = half("generator-lr-factor", settings.generator_lr_factor), half("prior-lr", settings.prior_lr)
    slower = f"{generator} ({SLOWER})" if measured.prior_is_fixed else f"{generator} or {prior} (either is {SLOWER})"
    return f"{slower}, or --d-steps {settings.d_steps + 1} (an iteration takes longer)"


def grey_pixels(settings: RunSettings, measured: Vitals) -> str:
    slower = slower_prior(settings, measured)
    if settings.batch < 4:
        return slower
    fewer = f"--batch {settings.batch // 2} (an iteration takes less time, and has fewer images of each cluster)"
    return f"{slower}, or {fewer}"


def clearer_posteriors(settings: RunSettings, measured: Vitals) -> str:
    if not measured.has("membership"):
        slower = pretrained(settings, measured) + slower_prior(settings, measured)
        return f"{slower}, or less spread in the prior by its options (samples vary less)"
    if not settings.prior_fit:
        return "--prior-fit 0.8 --density-weight 1 (some seconds once; it needs a few thousand iterations before it)"
    weight = 2 * settings.membership_weight or 1.0
    return (
        f"--membership-weight {weight:.3g} (samples and reconstructions become less exact), or less spread in the "
        "prior by its options or a lower --entropy-weight (samples of a cluster become less varied)"
    )


def heeded_labels(settings: RunSettings, measured: Vitals) -> str:
    if not measured.has("membership"):
        return slower_prior(settings, measured)
    other = "another --arch.conditioning (a new run of the same length)"
    if settings.generator_membership_weight:
        weight = 2 * settings.generator_membership_weight
        return f"--generator-membership-weight {weight:.3g} (samples may become less natural), or {other}"
    return f"--generator-membership-weight 6.4 (each update of the generator takes longer), or {other}"


def weaker_discriminator(settings: RunSettings, measured: Vitals) -> str:
    if settings.d_steps > 1:
        return f"--d-steps {settings.d_steps // 2} (an iteration takes less time)"
    return smaller_steps(settings, measured)


def smaller_steps(settings: RunSettings, measured: Vitals) -> str:
    return f"{half('lr', settings.lr)} ({SLOWER})"


def larger_gradients(settings: RunSettings, measured: Vitals) -> str:
    norms = {part: norm for part, norm in measured.gradient_norms.items() if part in NETWORKS}
    if min(norms, key=lambda part: norms[part], default="encoder") == "encoder" and measured.has("membership"):
        weight = 2 * settings.membership_weight or 1.0
        return f"--membership-weight {weight:.3g} (samples and reconstructions become less exact)"
    if settings.d_steps > 1 and measured.has("data_discriminator"):
        return weaker_discriminator(settings, measured)
    return f"--lr {2 * settings.lr:.3g} (training may become unstable)"


def more_clusters(settings: RunSettings, measured: Vitals) -> str:
    count = len(measured.sizes) + len(measured.two_peaks)
    return f"--clusters {count} (a group that is one may be cut in two)"


CURES: Mapping[str, Callable[[RunSettings, Vitals], str]] = {
    "empty_clusters": fewer_groups,
    "collapsed_assignments": freer_images,
    "two_groups": more_clusters,
    "collapsed_clusters": varied_samples,
    "saturation": grey_pixels,
    "undecided_posteriors": clearer_posteriors,
    "ignored_clusters": heeded_labels,
    "discriminator_won": weaker_discriminator,
    "exploding_spectral_norms": smaller_steps,
    "exploding_gradients": smaller_steps,
    "vanishing_gradients": larger_gradients,
}
