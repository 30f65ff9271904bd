"""The programs behind `mpcc.core.layers.triton_kernels`, which says what they compute; importing this needs Triton."""

# Triton reads the annotations of its kernels, so this module has none of its own.
# mypy: ignore-errors

import triton
import triton.language as tl

__all__ = ["joined_moments", "normalise", "partial_moments", "scaled_relu"]


@triton.jit
def normalise(table, raw, sigma, flat, half, ROUND: tl.constexpr, BLOCK: tl.constexpr):
    """Divide a block of a layer's weights by its sigma; (out, in, pixels) becomes (out, pixels, in)."""
    row = table + 6 * tl.program_id(0)
    start, size, channels, pixels = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    number, first = tl.load(row + 4), tl.load(row + 5)
    place = first + tl.arange(0, BLOCK)
    inside = place < size
    channel, pixel, out = place % channels, place // channels % pixels, place // (channels * pixels)
    source = (out * channels + channel) * pixels + pixel
    values, divisor = tl.load(raw + start + source, mask=inside, other=0.0), tl.load(sigma + number)
    # A GPU's own division in single precision is not rounded exactly.
    values = tl.div_rn(values, divisor) if raw.dtype.element_ty == tl.float32 else values / divisor
    tl.store(flat + start + place, values, mask=inside)
    if ROUND:
        tl.store(half + start + place, values.to(tl.float32).to(half.dtype.element_ty), mask=inside)


@triton.jit
def mean_of_first(base, pixels, channels, known, PIXELS: tl.constexpr):
    """Return the mean of each channel over the first pixels of a group."""
    pixel = tl.arange(0, PIXELS)
    inside = (pixel < pixels)[:, None] & known[None, :]
    values = tl.load(base[None, :] + pixel[:, None].to(tl.int64) * channels, mask=inside, other=0.0).to(tl.float32)
    return tl.sum(values, axis=0) / tl.minimum(pixels, PIXELS)


@triton.jit
def partial_moments(x, sums, squares, pixels, each, channels, splits, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    """Sum a share of a group's pixels, and their squares, as differences to the mean of its first pixels."""
    group, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    base = x + group * pixels * channels + channel
    first = mean_of_first(base, pixels, channels, known, PIXELS)
    total = tl.zeros((CHANNELS,), dtype=tl.float32)
    of_squares = tl.zeros((CHANNELS,), dtype=tl.float32)
    end = tl.minimum((split + 1) * each, pixels)
    for start in range(split * each, end, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        inside = (pixel < end)[:, None] & known[None, :]
        values = tl.load(base[None, :] + pixel[:, None].to(tl.int64) * channels, mask=inside, other=0.0).to(tl.float32)
        differences = tl.where(inside, values - first[None, :], 0.0)
        total += tl.sum(differences, axis=0)
        of_squares += tl.sum(differences * differences, axis=0)
    place = (group * splits + split) * channels + channel
    tl.store(sums + place, total, mask=known)
    tl.store(squares + place, of_squares, mask=known)


@triton.jit
def joined_moments(
    x, sums, squares, means, variances, pixels, channels, splits, CHANNELS: tl.constexpr, PIXELS: tl.constexpr
):
    """Add up the sums of all shares of a group, and make its mean and its biased variance of them."""
    group = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    total = tl.zeros((CHANNELS,), dtype=tl.float32)
    of_squares = tl.zeros((CHANNELS,), dtype=tl.float32)
    for split in range(splits):
        place = (group * splits + split) * channels + channel
        total += tl.load(sums + place, mask=known, other=0.0)
        of_squares += tl.load(squares + place, mask=known, other=0.0)
    first = mean_of_first(x + group * pixels * channels + channel, pixels, channels, known, PIXELS)
    offset = total / pixels
    variance = tl.maximum(of_squares / pixels - offset * offset, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(means + group * channels + channel, first + offset, mask=known)
    tl.store(variances + group * channels + channel, variance, mask=known)


@triton.jit
def activation(x, scale, shift, image, row, column, channel, inside, height, width, channels):
    """Return relu(x * scale + shift) at a place of each image, in float32; places outside are moved to the edge."""
    row = tl.minimum(tl.maximum(row, 0), height - 1)
    column = tl.minimum(tl.maximum(column, 0), width - 1)
    place = ((image * height + row) * width + column) * channels + channel
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    return tl.maximum(values * scale + shift, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def scaled_relu(
    x,
    scale,
    shift,
    out,
    numbers,
    height,
    width,
    channels,
    of_images,
    FACTOR: tl.constexpr,
    BILINEAR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute a block of numbers of the result."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < numbers
    channel, pixel = place % channels, place // channels
    column, row = pixel % (FACTOR * width), pixel // (FACTOR * width) % (FACTOR * height)
    image = pixel // (FACTOR * FACTOR * height * width)
    factor = tl.load(scale + image * of_images + channel, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(shift + image * of_images + channel, mask=inside, other=0.0).to(tl.float32)
    if BILINEAR:
        # A pixel of the result lies a quarter of a pixel beside the nearer one of the two that it is a mean of.
        upper, left = (row + 1) // 2 - 1, (column + 1) // 2 - 1
        lower_share = tl.where(row % 2 == 0, 0.75, 0.25)
        right_share = tl.where(column % 2 == 0, 0.75, 0.25)
        value = tl.zeros((BLOCK,), dtype=tl.float32)
        for down in tl.static_range(2):
            of_row = lower_share if down == 1 else 1.0 - lower_share
            for across in tl.static_range(2):
                of_column = right_share if across == 1 else 1.0 - right_share
                value += (
                    of_row
                    * of_column
                    * activation(
                        x,
                        scale=factor,
                        shift=offset,
                        image=image,
                        row=upper + down,
                        column=left + across,
                        channel=channel,
                        inside=inside,
                        height=height,
                        width=width,
                        channels=channels,
                    )
                )
    else:
        value = activation(
            x,
            scale=factor,
            shift=offset,
            image=image,
            row=row // FACTOR,
            column=column // FACTOR,
            channel=channel,
            inside=inside,
            height=height,
            width=width,
            channels=channels,
        )
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)
