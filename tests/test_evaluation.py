"""Evaluation: the choice of images, posteriors against a direct computation, scores, pictures, and no trace left."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn

from mpcc.core.config import RunSettings
from mpcc.core.contracts import Evaluation, FeatureRequest, ImageSet, Metric
from mpcc.core.errors import PluginError
from mpcc.core.evaluation.evaluated_images import ModelImages
from mpcc.core.evaluation.evaluation import (
    Pictures,
    choose_images,
    draw_interpolations,
    draw_pictures,
    evaluate,
    left_out,
    score,
)
from mpcc.core.evaluation.findings import find
from mpcc.core.evaluation.image_posterior import uniform_points
from mpcc.core.method.model import Model, standing_generator, to_pixels, to_unit_range
from mpcc.core.system.randomness import own_randomness
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

K, J, N = 3, 4, 600  # more images than fit into one batch of the encoder
CPU = torch.device("cpu")


def model(clusters: int = K) -> Model:
    torch.manual_seed(0)
    prior = GaussianMixture(clusters, J, GaussianMixtureOptions(scale_floor=0.1, initial_raw_scale=-2))
    networks = BigGAN8(BigGANOptions(width=1)).build(clusters, J, channels=1)
    return Model.assemble(prior, networks, CPU)


def image_set(labelled: bool = True, count: int = N) -> ImageSet:
    random = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=random)
    return ImageSet(images, torch.randint(5, (count,), generator=random) if labelled else None)


def pictures(made: Model, data: ImageSet, seed: int = 7, count: int = 80) -> Pictures:
    return draw_pictures(*images(made, data, seed, count))


def images(made: Model, data: ImageSet, seed: int = 7, count: int = 80) -> tuple[ModelImages, Evaluation]:
    """The images of an evaluation, and the evaluation."""
    indices = choose_images(len(data), count, seed=0)
    found = evaluate(made, data, indices)
    request = FeatureRequest()
    return ModelImages(made, data, indices, found, request=request, passes=2, batch=8, seed=seed), found


# Which images


@pytest.mark.parametrize("wanted", ["all", 20, 21, 1000])
def test_all_images_are_chosen_when_all_or_too_many_are_wanted(wanted: int | str) -> None:
    assert choose_images(20, wanted, seed=0).tolist() == list(range(20))


@pytest.mark.parametrize("wanted", [1, 7, 19])
def test_a_choice_is_ascending_without_repetition_and_the_same_every_time(wanted: int) -> None:
    chosen = choose_images(20, wanted, seed=3).tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == wanted
    assert set(chosen) <= set(range(20))
    torch.manual_seed(9)
    before = torch.get_rng_state()
    assert choose_images(20, wanted, seed=3).tolist() == chosen
    assert torch.equal(torch.get_rng_state(), before)


def test_other_seeds_choose_other_images_and_every_image_has_its_chance() -> None:
    choices = [choose_images(20, 5, seed).tolist() for seed in range(400)]
    counts = np.bincount(np.concatenate(choices), minlength=20)
    assert len({str(choice) for choice in choices}) > 300
    assert stats.chisquare(counts).pvalue > 1e-3


# Posteriors


@pytest.mark.parametrize("labelled", [True, False])
def test_the_posterior_is_the_mean_of_bayes_rule_over_the_encoders_distribution(labelled: bool) -> None:
    made, data = model(), image_set(labelled)
    indices = choose_images(N, 590, seed=0)
    found = evaluate(made, data, indices)
    pixels = data.images[indices].numpy().astype(np.float32)
    with torch.no_grad():
        loc, raw = made.networks.encoder(torch.from_numpy(pixels / np.float32(127.5) - 1))
        scale = made.prior.scales()
    assert scale is not None
    np.testing.assert_allclose(found.locations.numpy(), loc.numpy(), atol=1e-6)
    mu = made.prior.loc.detach().numpy()
    at = stats.norm.ppf(uniform_points(made.prior.latent_dim).numpy())[:, None]
    z = loc.numpy() + np.exp(raw.numpy() / 2) * at
    log_joint = stats.norm.logpdf(z[:, :, None], mu, scale.numpy()).sum(-1) - math.log(K)
    expected = special.softmax(log_joint, axis=-1).mean(0)
    np.testing.assert_allclose(found.posterior.numpy(), expected, atol=1e-5)
    assert found.posterior.dtype == found.locations.dtype == torch.float32
    assert found.clusters == K
    assert torch.equal(found.assignments, found.posterior.argmax(1))
    if labelled:
        assert found.labels is not None
        assert data.labels is not None
        assert torch.equal(found.labels, data.labels[indices])
    else:
        assert found.labels is None


def test_the_encoder_is_evaluated_in_evaluation_mode() -> None:
    made, data = model(), image_set()
    modes: list[bool] = []
    made.networks.encoder.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    evaluate(made, data, torch.arange(3))
    assert modes == [False]


# Pixels


def test_every_pixel_survives_the_way_to_unit_range_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    units = to_unit_range(values, CPU)
    assert units.dtype == torch.float32
    np.testing.assert_allclose(units.numpy().ravel(), np.arange(256) / 127.5 - 1, atol=1e-6)
    assert torch.equal(to_pixels(units), values)
    assert torch.equal(values.ravel(), torch.arange(256, dtype=torch.uint8))


def test_pixels_beyond_the_range_are_clipped_and_others_rounded() -> None:
    found = to_pixels(torch.tensor([-1.5, -1.0, -0.999, 0.0, 0.9999, 1.0, 3.0]))
    assert found.tolist() == [0, 0, 0, 128, 255, 255, 255]


# Scores


class Constant(Metric):
    """A metric that returns what it is told."""

    def __init__(self, value: Any, needs_labels: bool = False, needs_images: bool = False) -> None:
        self.value, self.needs_labels, self.needs_images = value, needs_labels, needs_images

    def compute(self, evaluation: Evaluation) -> Any:
        return self.value


def evaluation(labelled: bool) -> Evaluation:
    return Evaluation(torch.full((4, 2), 0.5), torch.zeros(4, J), torch.arange(4) % 2 if labelled else None)


@pytest.mark.parametrize(("labelled", "expected"), [(True, {"a": 0.25, "b": 1.0}), (False, {"b": 1.0})])
def test_metrics_of_labels_are_left_out_where_there_are_none(labelled: bool, expected: dict[str, float]) -> None:
    metrics = {"a": Constant(0.25, needs_labels=True), "b": Constant(np.float32(1), needs_labels=False)}
    found = score(metrics, evaluation(labelled))
    assert found == expected
    reasons = {} if labelled else {"a": "the data set has no labels"}
    assert left_out(metrics, evaluation(labelled).labels) == reasons
    assert all(type(value) is float for value in found.values())


def test_one_class_is_no_labelling() -> None:
    metrics = {"a": Constant(0.25, needs_labels=True), "b": Constant(1.0, needs_labels=False)}
    assert score(metrics, attrs.evolve(evaluation(True), labels=torch.full((4,), 3))) == {"b": 1.0}
    assert left_out(metrics, torch.full((4,), 3)) == {
        "a": "all 4 evaluated images are of one class, which is no labelling"
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused_with_the_name_of_its_metric(value: float) -> None:
    with pytest.raises(PluginError, match=rf"metric 'odd' returned {value}: expected a finite number"):
        score({"odd": Constant(value, needs_labels=False)}, evaluation(labelled=False))


def test_a_metric_may_give_several_scores_by_names_of_its_own() -> None:
    metrics = {"a": Constant(1.0), "few": Constant({"low": 0.5, "high": np.float64(2)}), "none": Constant({})}
    assert score(metrics, evaluation(labelled=False)) == {"a": 1.0, "low": 0.5, "high": 2.0}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"x": math.nan}, "metric 'odd': 'x' is nan: expected a finite number"),
        ({3: 1.0}, "metric 'odd' named a score 3: expected a text"),
        ({"": 1.0}, "metric 'odd' named a score '': expected a text"),
        ({"acc": 1.0}, "metric 'odd' gives the score 'acc', as another metric does"),
        ({"x": "much"}, "metric 'odd' returned 'much' for 'x': expected a finite number"),
        (None, "metric 'odd' returned None for 'odd': expected a finite number"),
    ],
)
def test_scores_that_cannot_be_are_refused_with_the_name_of_their_metric(value: Any, message: str) -> None:
    with pytest.raises(PluginError, match=re.escape(message)):
        score({"acc": Constant(0.5), "odd": Constant(value)}, evaluation(labelled=False))


def test_a_metric_of_images_is_refused_where_there_are_latents_only() -> None:
    with pytest.raises(PluginError, match="metric 'sharp' needs images: expected an evaluation with images"):
        score({"sharp": Constant(1.0, needs_images=True)}, evaluation(labelled=True))


# Pictures


@pytest.mark.parametrize("clusters", [1, 3, 30])
def test_there_is_a_row_of_ten_samples_for_each_cluster(clusters: int) -> None:
    samples = pictures(model(clusters), image_set()).samples
    assert samples.shape == (clusters, 10, 1, 8, 8)
    assert samples.dtype == torch.uint8


def test_the_same_seed_draws_the_same_pictures_and_another_seed_others() -> None:
    made, data = model(), image_set()
    torch.manual_seed(1)
    first = pictures(made, data)
    torch.manual_seed(2)
    again, other = pictures(made, data), pictures(made, data, seed=8)
    assert torch.equal(first.samples, again.samples)
    assert torch.equal(first.originals, again.originals)
    assert torch.equal(first.reconstructions, again.reconstructions)
    assert not torch.equal(first.samples, other.samples)


@torch.no_grad()
def test_row_k_shows_samples_of_cluster_k_from_the_averaged_generator() -> None:
    made, data = model(), image_set()
    for parameter in made.networks.generator.parameters():
        parameter.zero_()  # the live generator must not be asked
    shown = pictures(made, data)
    with own_randomness(7, CPU):
        generator = standing_generator(made.averaged, made.prior, passes=2, batch=8)
        noise = torch.randn(10 * K, J).view(K, 10, J)
    for k in range(K):
        z = made.prior.loc[k] + made.prior.scales()[k] * noise[k]
        expected = to_pixels(generator(z, torch.full((10,), k)))
        assert (shown.samples[k].int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("labelled", [True, False])
def test_reconstructions_stand_beside_their_originals_sorted_by_cluster_and_label(labelled: bool) -> None:
    made, data = model(), image_set(labelled)
    shown = pictures(made, data)
    assert shown.originals.shape == shown.reconstructions.shape == (50, 1, 8, 8)
    # Images are all different, so that each original says which one it is.
    which = torch.tensor([int((data.images == image).all(dim=(1, 2, 3)).nonzero()) for image in shown.originals])
    assert len(set(which.tolist())) == 50
    assert set(which.tolist()) <= set(choose_images(N, 80, seed=0).tolist())
    encoded = evaluate(made, data, which)
    assert torch.equal(shown.clusters, encoded.assignments)
    keys = encoded.assignments * 10 + (0 if encoded.labels is None else encoded.labels)
    assert torch.equal(keys, keys.sort().values)
    with own_randomness(7, CPU), torch.no_grad():
        generator = standing_generator(made.averaged, made.prior, passes=2, batch=8)
        expected = to_pixels(generator(encoded.locations, encoded.assignments))
    assert (shown.reconstructions.int() - expected.int()).abs().max() <= 1


def test_fewer_images_than_places_are_all_shown() -> None:
    data = image_set(count=12)
    assert len(pictures(model(), data, count=12).originals) == 12


# Images for metrics


def test_real_images_come_in_their_order() -> None:
    data = image_set()
    found, _ = images(model(), data, count=300)
    batches = list(found.real())
    assert [len(batch) for batch in batches] == [256, 44]
    assert torch.equal(torch.cat(batches), data.images[choose_images(N, 300, seed=0)])


@torch.no_grad()
def test_errors_are_those_of_the_averaged_generator_at_location_and_cluster() -> None:
    made, data = model(), image_set()
    for parameter in made.networks.generator.parameters():
        parameter.zero_()  # the live generator must not be asked
    found, seen = images(made, data, count=300)
    assert found.known_errors() is None
    with own_randomness(7, CPU):
        generator = standing_generator(made.averaged, made.prior, passes=2, batch=8)
    x = data.images[choose_images(N, 300, seed=0)].double() / 127.5 - 1
    difference = (x - generator(seen.locations, seen.assignments).double()).numpy()
    squared = (difference**2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found.reconstruction_errors().numpy(), squared, rtol=1e-5)
    known = found.known_errors()
    assert known is not None
    assert known.dtype == torch.float32
    assert known.shape == (300,)


@pytest.mark.parametrize(("count", "batches"), [(300, 37), (8, 1), (5, 1)])
def test_the_published_error_is_of_whole_batches_of_the_generator_in_training(count: int, batches: int) -> None:
    made, data = model(), image_set()
    before = states(made)
    found, seen = images(made, data, count=count)
    # It is far smaller than the error of an image.
    mean_squared = float(found.reconstruction_errors().mean())
    with torch.no_grad():
        for parameter in made.averaged.parameters():
            parameter.mul_(math.nan)  # the average must not be asked
    error = found.published_error()
    assert error == found.published_error()
    # As the published code does it: batches of 8 in random order, the last one only if it is whole or the only one.
    with own_randomness(7, CPU):
        order = torch.randperm(count)
    generator, parts = copy.deepcopy(made.networks.generator).train(), []
    x = data.images[choose_images(N, count, seed=0)] / 127.5 - 1
    for start in range(0, 8 * batches, 8):
        chosen = order[start : start + 8]
        with torch.no_grad():
            made_of = generator(seen.locations[chosen], seen.assignments[chosen])
        parts.append(torch.mean(x[chosen] - made_of).pow(2).item())
    assert error == pytest.approx(np.mean(parts), rel=1e-4)
    assert error < mean_squared / 3
    for part, state in states(made).items():
        if part != "averaged_generator":
            assert all(torch.equal(value, before[part][key]) for key, value in state.items())


def test_clusters_of_reconstructions_are_those_of_their_pixels() -> None:
    made, data = model(), image_set()
    found, seen = images(made, data, count=300)
    with own_randomness(7, CPU), torch.no_grad():
        generator = standing_generator(made.averaged, made.prior, passes=2, batch=8)
        again = ImageSet(to_pixels(generator(seen.locations, seen.assignments)))
    clusters = found.reconstructed_clusters()
    assert clusters.dtype == torch.int64
    assert torch.equal(clusters, evaluate(made, again, torch.arange(300)).assignments)
    assert found.known_errors() is not None


def test_generated_images_are_fresh_ones_and_the_same_each_time() -> None:
    made, data = model(), image_set()
    found, _ = images(made, data)
    first = list(found.generated(300))
    assert [len(batch) for batch in first] == [256, 44]
    assert first[0].dtype == torch.uint8
    torch.manual_seed(5)
    again = []
    for batch in images(made, data)[0].generated(300):
        again.append(batch)
        torch.rand(3)  # whoever reads them may draw in between
    assert torch.equal(torch.cat(first), torch.cat(again))
    everything = torch.cat(first)
    assert len(everything.flatten(1).unique(dim=0)) > 290
    other = torch.cat([*images(made, data, seed=8)[0].generated(300)])
    assert not torch.equal(everything, other)
    # p(x) has all clusters in it: the mean image is that of the samples of all of them.
    samples = torch.cat([*found.generated(4000)]).double().mean(0)
    with torch.no_grad(), own_randomness(7, CPU):
        generator = standing_generator(made.averaged, made.prior, passes=2, batch=8)
        expected = to_pixels(generator(*made.prior.sample(4000))).double().mean(0)
    assert (samples - expected).abs().max() < 8


def test_a_row_of_interpolations_goes_from_one_sample_of_its_cluster_to_another() -> None:
    made, data = model(), image_set()
    found, _ = images(made, data)
    drawn = draw_interpolations(found, [2, 0])
    assert drawn.shape == (2, 10, 1, 8, 8)
    assert torch.equal(drawn, draw_interpolations(found, [2, 0]))
    with found.standing() as generator, torch.no_grad():
        ends = made.prior.component(torch.tensor([2, 2, 0, 0])).rsample().view(2, 2, J)
        for row, cluster in enumerate((2, 0)):
            for step in (0, 3, 9):
                z = ends[row, 0] + (ends[row, 1] - ends[row, 0]) * step / 9
                one = to_pixels(generator(z[None], torch.tensor([cluster])))[0]
                assert (drawn[row, step].int() - one.int()).abs().max() <= 1


def test_scales_of_the_encoder_are_those_of_its_normal() -> None:
    made, data = model(), image_set()
    found = find(made, data, torch.arange(300), {}, RunSettings(standing_passes=1))
    with torch.no_grad():
        _, log_variance = made.networks.encoder.eval()(to_unit_range(data.images[:256], CPU))
    scales = found.encoder_scales()
    assert scales is not None
    assert torch.allclose(scales, (log_variance / 2).exp(), rtol=1e-5)


def test_the_standing_generator_is_one_and_the_order_of_questions_does_not_matter() -> None:
    made, data = model(), image_set()
    found, seen = images(made, data)
    drawn = draw_pictures(found, seen)
    errors, generated = found.reconstruction_errors(), list(found.generated(10))
    with found.standing() as one, found.standing() as other:
        assert one is other
    found, seen = images(made, data)
    assert torch.equal(torch.cat(generated), torch.cat([*found.generated(10)]))
    assert torch.equal(errors, found.reconstruction_errors())
    again = draw_pictures(found, seen)
    for name in ("samples", "originals", "reconstructions"):
        assert torch.equal(getattr(drawn, name), getattr(again, name))


# No trace


def modes(made: Model) -> dict[str, bool]:
    return {f"{part}.{at}": m.training for part, root in made.parts().items() for at, m in root.named_modules()}


def states(made: Model) -> dict[str, dict[str, Tensor]]:
    return {part: copy.deepcopy(module.state_dict()) for part, module in made.parts().items()}


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_changes_neither_parameters_nor_buffers_nor_modes_nor_random_state(training: bool) -> None:
    made, data = model(), image_set()
    for part in made.parts().values():
        part.train(training)
    before = (modes(made), states(made))
    torch.manual_seed(3)
    random = torch.get_rng_state()
    shown = pictures(made, data)
    found, _ = images(made, data)
    generating = found.generated(300)
    next(generating)
    assert torch.equal(torch.get_rng_state(), random)
    used = [found.reconstruction_errors(), torch.tensor(found.published_error()), *generating, *found.real()]
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(value.requires_grad for value in used)
    assert modes(made) == before[0]
    torch.testing.assert_close(states(made), before[1], atol=0, rtol=0)
    assert not any(p.requires_grad for part in made.parts().values() for p in part.parameters())
    assert not any(value.requires_grad for value in vars(shown).values())


def test_modes_are_put_back_when_the_encoder_fails() -> None:
    made, data = model(), image_set()

    def fail(module: nn.Module, _: object) -> None:
        raise RuntimeError("stop")

    made.networks.encoder.register_forward_pre_hook(fail)
    before = modes(made)
    with pytest.raises(RuntimeError, match="stop"):
        evaluate(made, data, torch.arange(3))
    assert modes(made) == before


def test_pictures_and_scores_of_images_do_not_depend_on_the_precision_of_training() -> None:
    data, found = image_set(), []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            drawn = pictures(model(), data)
            lent, _ = images(model(), data)
            found.append((drawn.samples, drawn.reconstructions, lent.reconstruction_errors(), *lent.generated(5)))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_metric_computes_in_full_precision_whatever_the_precision_of_training() -> None:
    class Product(Metric):
        def compute(self, evaluation: Evaluation) -> float:
            return float((torch.full((2, 2), 1.001) @ torch.eye(2))[0, 0])

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = find(model(), image_set(), torch.arange(20), {"product": Product()}, RunSettings(standing_passes=1))
    assert found.scores["product"] == pytest.approx(1.001, abs=1e-6)
