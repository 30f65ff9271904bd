"""The stream of real images: what an epoch is, and that two integers say where it stands."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch

from mpcc.core.errors import InvalidInput
from mpcc.core.images.stream import ImageStream


def numbered(count: int) -> torch.Tensor:
    """Images that say which one they are, uint8, shape (count, 1, 2, 2)."""
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 1, 2, 2).contiguous()


def draw(stream: ImageStream, batches: int) -> list[list[int]]:
    return [stream.next()[:, 0, 0, 0].tolist() for _ in range(batches)]


every_size = pytest.mark.parametrize(("count", "batch"), [(10, 5), (10, 3), (7, 7), (9, 5), (4, 1)])


@every_size
def test_an_epoch_shows_each_image_at_most_once_and_drops_the_rest(count: int, batch: int) -> None:
    stream = ImageStream(numbered(count), batch, seed=0)
    for epoch in range(4):
        shown = [image for drawn in draw(stream, count // batch) for image in drawn]
        assert len(set(shown)) == len(shown) == count - count % batch
        assert stream.state() == {"epoch": epoch, "position": len(shown)}


def test_batches_are_images_of_the_set_as_they_are() -> None:
    images = torch.randint(256, (11, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = ImageStream(images, 4, seed=1).next()
    assert (batch.shape, batch.dtype) == ((4, 3, 4, 4), torch.uint8)
    assert all(any(torch.equal(image, known) for known in images) for image in batch)


def test_a_batch_is_a_copy_that_may_be_changed() -> None:
    images = numbered(6)
    ImageStream(images, 6, seed=0).next().zero_()
    assert torch.equal(images, numbered(6))


def test_every_image_is_dropped_sooner_or_later_but_none_for_good() -> None:
    stream = ImageStream(numbered(9), 5, seed=0)
    epochs = [set(draw(stream, 1)[0]) for _ in range(30)]
    assert set.union(*epochs) == set(range(9))
    assert set.intersection(*epochs) == set()


def test_every_image_is_equally_likely_to_come_first() -> None:
    stream = ImageStream(numbered(4), 4, seed=3)
    first = [batch[0] for batch in draw(stream, 4000)]
    for image in range(4):
        assert abs(first.count(image) - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5


def test_the_seed_fixes_the_order() -> None:
    orders = {seed: draw(ImageStream(numbered(20), 5, seed), 12) for seed in (0, 1, 2, 2**63 - 1)}
    for seed, order in orders.items():
        assert draw(ImageStream(numbered(20), 5, seed), 12) == order
    assert len({str(order) for order in orders.values()}) == len(orders)


def test_neighbouring_seeds_do_not_share_epochs() -> None:
    epochs = [str(order) for seed in range(10) for order in draw(ImageStream(numbered(30), 30, seed), 10)]
    assert len(set(epochs)) == 100


@every_size
def test_a_stream_taken_up_anywhere_goes_on_as_if_it_had_not_stopped(count: int, batch: int) -> None:
    straight = draw(ImageStream(numbered(count), batch, seed=5), 12)
    for done in range(12):
        first = ImageStream(numbered(count), batch, seed=5)
        begun = draw(first, done)
        second = ImageStream(numbered(count), batch, seed=5)
        second.restore(first.state())
        assert begun + draw(second, 12 - done) == straight


def test_a_stream_can_be_put_back() -> None:
    stream = ImageStream(numbered(10), 3, seed=0)
    draw(stream, 2)
    state = stream.state()
    later = draw(stream, 7)
    stream.restore(state)
    assert draw(stream, 7) == later


def test_the_order_neither_uses_nor_moves_the_global_random_state() -> None:
    torch.manual_seed(0)
    expected = draw(ImageStream(numbered(10), 3, seed=4), 9)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert draw(ImageStream(numbered(10), 3, seed=4), 9) == expected
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_larger_than_the_set_is_refused_with_both_numbers_and_the_remedy() -> None:
    with pytest.raises(InvalidInput) as caught:
        ImageStream(numbered(7), 8, seed=0)
    message = str(caught.value)
    assert "batch 8" in message
    assert "7 images" in message
    assert "--batch 7" in message
    assert "\n" not in message


class Source:
    """Numbered images that are made when they are asked for; asking for ``broken`` fails."""

    def __init__(self, count: int, broken: int = -1) -> None:
        self.shape = (count, 1, 2, 2)
        self.broken = broken

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        if self.broken in indices:
            raise InvalidInput(f"cannot read {self.broken}.png: expected an image file")
        return indices.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


@pytest.mark.parametrize("workers", [0, 1, 2])
@every_size
def test_a_source_gives_the_batches_of_a_tensor_whoever_reads_it(count: int, batch: int, workers: int) -> None:
    expected = draw(ImageStream(numbered(count), batch, seed=5), 9)
    stream = ImageStream(Source(count), batch, seed=5, workers=workers)
    found = draw(stream, 4)
    state = stream.state()
    assert found + draw(stream, 5) == expected
    stream.restore(state)
    assert found + draw(stream, 5) == expected
    stream.close()
    assert state == {"epoch": 3 // (count // batch), "position": (3 % (count // batch) + 1) * batch}


def test_workers_neither_use_nor_move_the_global_random_state() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    stream = ImageStream(Source(10), 3, seed=4, workers=1)
    draw(stream, 9)
    stream.close()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named_in_one_line(workers: int) -> None:
    stream = ImageStream(Source(6, broken=4), 6, seed=0, workers=workers)
    with pytest.raises(InvalidInput, match=r"^cannot read 4.png: expected an image file$"):
        stream.next()
    stream.close()


def test_workers_end_with_the_stream_and_ignore_signals_to_the_group() -> None:
    stream = ImageStream(Source(10), 2, seed=0, workers=2)
    # One batch from each of the two: both have set themselves up then.
    first = draw(stream, 2)
    children = multiprocessing.active_children()
    assert len(children) == 2
    for child in children:
        assert child.pid is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child.pid, number)
    assert first + draw(stream, 20) == draw(ImageStream(numbered(10), 2, seed=0), 22)
    stream.close()
    assert not multiprocessing.active_children()


class Dying(Source):
    """A source whose reader is killed."""

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        os._exit(1)


class Unplugged(Source):
    """A source on a disk that has gone."""

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        raise OSError(5, "Input/output error", "scan.png")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Dying(6), r"^a process that reads images ahead has ended: .*--workers 0$"),
        (Unplugged(6), r"^cannot read scan.png: Input/output error$"),
    ],
)
def test_workers_that_die_or_lose_their_disk_end_in_one_line(source: Source, message: str) -> None:
    stream = ImageStream(source, 6, seed=0, workers=1)
    with pytest.raises(InvalidInput, match=message):
        stream.next()
    stream.close()
