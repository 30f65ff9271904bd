"""Inference: a stream of predictions that are those of an evaluation, leaves no trace and keeps nothing."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mpcc.core.contracts import ImageSet, ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.evaluation import evaluate
from mpcc.core.evaluation.image_posterior import uniform_points
from mpcc.core.evaluation.inference import Prediction, predictions
from mpcc.core.images.read_ahead import in_order
from mpcc.core.layers.fusion import fuse
from mpcc.core.method.model import Model, to_unit_range
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

K, J, N = 3, 4, 600  # more images than fit into two batches


def model(clusters: int = K) -> Model:
    torch.manual_seed(0)
    prior = GaussianMixture(clusters, J, GaussianMixtureOptions(scale_floor=0.1, initial_raw_scale=-2))
    networks = BigGAN8(BigGANOptions(width=1)).build(clusters, J, channels=1)
    return Model.assemble(prior, networks, torch.device("cpu"))


def random_images(count: int = N) -> Tensor:
    return torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Counting:
    """A source that knows how many images were asked for at once, and how many batches of it are still alive."""

    def __init__(self, images: Tensor, broken_from: int | None = None) -> None:
        self.images = images
        self.broken_from = broken_from
        self.requested: list[int] = []
        self.most_alive = 0
        self._given: list[weakref.ref[Tensor]] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape)

    def __getitem__(self, indices: Tensor) -> Tensor:
        if self.broken_from is not None and int(indices.max()) >= self.broken_from:
            raise InvalidInput("cannot read 300.png")
        read = self.images[indices]
        self.requested.append(len(indices))
        self._given = [each for each in self._given if each() is not None] + [weakref.ref(read)]
        self.most_alive = max(self.most_alive, len(self._given))
        return read


class Synthetic:
    """A source that makes its images up, any number of them; copies of it can read in other processes."""

    def __init__(self, count: int) -> None:
        self.shape: tuple[int, ...] = (count, 1, 8, 8)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return (indices.view(-1, 1, 1, 1) * torch.arange(1, 65).view(1, 1, 8, 8) % 256).to(torch.uint8)


def joined(found: Iterable[Prediction]) -> tuple[Tensor, Tensor]:
    each = list(found)
    return torch.cat([one.locations for one in each]), torch.cat([one.posterior for one in each])


def modes(made: Model) -> list[bool]:
    return [module.training for part in made.parts().values() for module in part.modules()]


def test_predictions_are_those_of_an_evaluation() -> None:
    made, images = model(), random_images()
    expected = evaluate(made, ImageSet(images), torch.arange(N))
    found = list(predictions(made, images))
    assert [len(each.posterior) for each in found] == [256, 256, 88]
    assert torch.equal(joined(found)[0], expected.locations)
    assert torch.equal(joined(found)[1], expected.posterior)
    assert torch.equal(torch.cat([each.clusters for each in found]), expected.assignments)
    assert torch.equal(torch.cat([each.confidence for each in found]), expected.posterior.max(1).values)


def test_they_are_the_encoder_and_bayes_rule() -> None:
    made, images = model(), random_images(20)
    location, raw = made.networks.encoder.eval()(to_unit_range(images, made.device))
    means, scales = made.prior.component(torch.arange(K)).mean, made.prior.component(torch.arange(K)).stddev
    z = torch.distributions.Normal(location, (raw / 2).exp()).icdf(uniform_points(made.prior.latent_dim)[:, None])
    density = torch.distributions.Normal(means, scales).log_prob(z[:, :, None]).sum(-1)
    (found,) = predictions(made, images)
    torch.testing.assert_close(found.locations, location.detach())
    torch.testing.assert_close(found.posterior, (density + made.prior.log_weights()).softmax(-1).mean(0).detach())


@pytest.mark.parametrize("batch", [1, 7, 100, 599, 600, 10_000])
def test_batches_of_any_size_agree(batch: int) -> None:
    made, images = model(), random_images()
    found = list(predictions(made, images, batch=batch))
    assert [len(each.posterior) for each in found] == [len(part) for part in images.split(batch)]
    for one, other in zip(joined(found), joined(predictions(made, images)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def given_batches(images: Tensor) -> Iterator[Tensor]:
    yield from images.split(250)


@pytest.mark.parametrize(
    "form",
    [Counting, lambda images: list(images.split(250)), given_batches, lambda images: in_order(images, 250)],
    ids=["source", "list", "generator", "in-order"],
)
def test_a_tensor_a_source_and_batches_give_the_same(
    form: Callable[[Tensor], Tensor | ImageSource | Iterable[Tensor]],
) -> None:
    made, images = model(), random_images()
    found, expected = (joined(predictions(made, each, batch=250)) for each in (form(images), images))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_batches_that_are_too_large_are_divided() -> None:
    assert [len(each.clusters) for each in predictions(model(), [random_images(25), random_images(3)], batch=10)] == [
        *(10, 10, 5, 3)
    ]


def test_no_images_are_no_predictions() -> None:
    assert list(predictions(model(), [])) == []


@pytest.mark.parametrize("batch", [0, -3])
def test_a_batch_of_no_images_is_refused_at_once(batch: int) -> None:
    with pytest.raises(InvalidInput, match=f"batch: expected at least 1, got {batch}"):
        predictions(model(), random_images(3), batch=batch)


def test_modes_are_put_back_after_every_batch_whatever_happens() -> None:
    made = model()
    encoder = made.networks.encoder
    next(iter(encoder.children())).eval()  # one module is in another mode than the rest
    before, seen = modes(made), []
    encoder.register_forward_hook(lambda *_: seen.append(any(module.training for module in encoder.modules())))
    for _ in predictions(made, random_images()):
        assert modes(made) == before
        break
    with pytest.raises(InvalidInput, match="cannot read"):
        list(predictions(made, Counting(random_images(), broken_from=300)))
    encoder.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(predictions(made, random_images()))
    assert modes(made) == before
    assert seen == [False, False, False]


def test_there_are_no_gradients_no_draws_and_nothing_changes() -> None:
    made = model()
    random = torch.get_rng_state()
    made.networks.encoder.requires_grad_(True)
    before = {key: value.clone() for key, value in made.networks.encoder.state_dict().items()}
    for each in predictions(made, random_images()):
        assert torch.is_grad_enabled()
        assert not each.posterior.requires_grad
        assert not each.locations.requires_grad
    after = made.networks.encoder.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(random, torch.get_rng_state())


def test_mixed_precision_of_the_caller_stays_outside() -> None:
    made, images = model(), random_images()
    expected = joined(predictions(made, images))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = joined(predictions(made, images))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_fused_encoder_agrees_with_the_plain_one() -> None:
    made, images = model(), random_images()
    made.networks.encoder.double()
    made.prior.double()
    fuse(made.networks.encoder, on=False)
    plain = joined(predictions(made, images))
    fuse(made.networks.encoder)
    fused = joined(predictions(made, images))
    assert plain[0].dtype == torch.float64
    assert not torch.equal(plain[0], fused[0])
    for one, other in zip(plain, fused, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_nothing_is_kept_of_what_has_been_yielded() -> None:
    source = Counting(random_images())
    earlier: list[weakref.ref[Tensor]] = []
    for each in predictions(model(), source, batch=50):
        assert len(source.requested) == len(earlier) + 1
        assert all(known() is None for known in earlier[:-1])
        earlier.append(weakref.ref(each.posterior))
    assert source.requested == [50] * 12
    assert source.most_alive <= 2


# In order


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_is_read_in_order_once(workers: int) -> None:
    read = list(in_order(Synthetic(23), 5, workers=workers))
    assert [len(each) for each in read] == [5, 5, 5, 5, 3]
    assert torch.equal(torch.cat(read), Synthetic(23)[torch.arange(23)])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(workers: int) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read 300\.png"):
        list(in_order(Counting(random_images(), broken_from=300), 100, workers=workers))


# Memory

CHILD = """
import sys
from pathlib import Path
import torch
from test_inference import Synthetic, model
from mpcc.core.evaluation.inference import predictions

torch.set_num_threads(1)
found = predictions(model(clusters=1000), Synthetic(int(sys.argv[1])))
kept = [each for each in found if sys.argv[2] == "kept" or len(each.posterior) == 0]
# Not that of getrusage: it outlives exec, and would be that of the tests' own process.
(line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
print(line.split()[1])
"""


def peak(count: int, keep: bool) -> float:
    """The most memory, in MiB, of a process that predicts so many images of 1000 clusters."""
    words = [sys.executable, "-c", CHILD, str(count), "kept" if keep else "dropped"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
    return int(done.stdout) / 2**10


@pytest.mark.check
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_number_of_images() -> None:
    few = peak(2_000, keep=False)
    assert peak(40_000, keep=False) < few + 64
    # That the measurement sees what is kept: 38,000 more rows of 1000 probabilities, 145 MiB.
    assert peak(40_000, keep=True) > few + 100
