"""Multi-scale deformable attention on CUDA as two Triton kernels, without a compiler on the user's machine.

The module needs only torch and triton. Its operators are not bound to a device type, so Triton's interpreter (`TRITON_INTERPRET=1`) can
run them on CPU tensors.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

VALUE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# A warp holds four queries of 32 channels: 16 bytes of float32 per thread, the widest possible load.
WARP_ELEMENTS = 128
# Forward: sixteen neighbouring queries share many pixels, which the program reads from the first-level cache. With more queries per program,
# a decoder's 300 queries would give too few programs for a large GPU.
FORWARD_WARPS = 4
# Backward: GPUs before Hopper pass each tile through shared memory on its way to the atomic additions; a single warp never waits for another.
BACKWARD_WARPS = 1


def deformable_attention_triton(
    values: Tensor, level_sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sums values sampled bilinearly at K points in each of L feature maps, per query and head (arXiv 2010.04159, equation 3).

    A location is a point of the padded map: pixel = location * size - 0.5. Neighbours outside the map count as zero, and so does a
    location that is far outside, infinite or not a number. The forward pass keeps only its inputs. Gradients of values are summed by
    atomic additions in float32, so their last bits can differ from run to run.

    Args:
        values: (B, S, M, C) float32, float16 or bfloat16: the maps, flattened row by row and one after the other; S = sum of h * w.
        level_sizes: (h, w) of each of the L maps.
        locations: (B, Q, M, L, K, 2) as (x, y), [0, 1] being the whole map; taken as float32.
        weights: (B, Q, M, L, K), any floating dtype.

    Returns:
        (B, Q, M * C), the head being the slow index, in the dtype of values; sums are taken in float32.

    Raises:
        TypeError: The values have another dtype.
        ValueError: Shapes or devices do not match.
    """
    _check(values, level_sizes, locations, weights)
    sizes = [side for size in level_sizes for side in size]
    output: Tensor = _attend(values, sizes, locations.float(), weights)
    return output


def _check(values: Tensor, level_sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    """Refuses inputs with which a kernel would read or write beyond its tensors."""
    if values.dtype not in VALUE_DTYPES:
        raise TypeError(
            f"The Triton kernel takes values of float32, float16 or bfloat16, not {values.dtype}; cast them."
        )
    batch, positions, heads, _ = values.shape
    queries, points = weights.shape[1], weights.shape[-1]
    if positions != sum(height * width for height, width in level_sizes):
        raise ValueError(
            f"The level sizes {[tuple(size) for size in level_sizes]} do not add up to the {positions} positions of the values."
        )
    if locations.shape != (batch, queries, heads, len(level_sizes), points, 2) or weights.shape != locations.shape[:-1]:
        raise ValueError(
            f"Locations {tuple(locations.shape)} and weights {tuple(weights.shape)} do not fit values {tuple(values.shape)}"
            f" of {len(level_sizes)} levels: they must be (B, Q, M, L, K, 2) and (B, Q, M, L, K)."
        )
    if not values.device == locations.device == weights.device:
        raise ValueError(
            f"Values, locations and weights must be on one device, not {values.device}, {locations.device}, {weights.device}."
        )


@torch.library.custom_op("detrkit::deformable_attention_triton", mutates_args=())
def _attend(values: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, channels = values.shape
    output = values.new_empty(batch, locations.shape[1], heads * channels)
    inputs = (values.contiguous(), locations.contiguous(), weights.contiguous())
    _launch(_forward_kernel, inputs, (output,), sizes, FORWARD_WARPS)
    return output


@torch.library.custom_op("detrkit::deformable_attention_triton_backward", mutates_args=())
def _attend_backward(
    grad_output: Tensor, values: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad_values = torch.zeros_like(values, dtype=torch.float32, memory_format=torch.contiguous_format)
    grad_locations = torch.empty_like(locations, memory_format=torch.contiguous_format)
    grad_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
    inputs = (values.contiguous(), locations.contiguous(), weights.contiguous(), grad_output.contiguous())
    _launch(_backward_kernel, inputs, (grad_values, grad_locations, grad_weights), sizes, BACKWARD_WARPS)
    return grad_values.to(values.dtype), grad_locations, grad_weights


@_attend.register_fake
def _(values: Tensor, _sizes: Sequence[int], locations: Tensor, _weights: Tensor) -> Tensor:
    return values.new_empty(values.shape[0], locations.shape[1], values.shape[2] * values.shape[3])


@_attend_backward.register_fake
def _(
    _grad_output: Tensor, values: Tensor, _sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(values, memory_format=contiguous),
        torch.empty_like(locations, memory_format=contiguous),
        torch.empty_like(weights, memory_format=contiguous),
    )


def _save(
    ctx: Any,
    inputs: tuple[Tensor, list[int], Tensor, Tensor],
    output: Tensor,  # noqa: ARG001 - torch passes it by name
) -> None:
    values, ctx.sizes, locations, weights = inputs
    ctx.save_for_backward(values, locations, weights)


def _differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    values, locations, weights = ctx.saved_tensors
    grad_values, grad_locations, grad_weights = _attend_backward(grad_output, values, ctx.sizes, locations, weights)
    return grad_values, None, grad_locations, grad_weights


_attend.register_autograd(_differentiate, setup_context=_save)


def _launch(
    kernel: Any, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], sizes: Sequence[int], warps: int
) -> None:
    values, locations = inputs[:2]
    batch, positions, heads, channels = values.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    # The backward kernel collects its results for the points in the columns of a tile that is as wide as the channels.
    block_channels = triton.next_power_of_2(max(channels, levels * points))
    block_queries = max(1, WARP_ELEMENTS * warps // block_channels)
    # Programs start in the order of axis 0, so those that run at the same time sample one head of one image: 2.8 MB in float32 at 800 × 1333,
    # which fits in the second-level cache of any GPU.
    grid = (triton.cdiv(queries, block_queries), heads, batch)
    if 0 in grid:
        return
    with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]  # Triton uses the current device, not the tensors'
        kernel[grid](
            inputs,
            outputs,
            # As floats, since Triton compiles anew for integers that are 1 or multiples of 16, and sizes change with every batch.
            tuple(float(side) for side in sizes),
            positions,
            queries,
            heads=heads,
            channels=channels,
            levels=levels,
            points=points,
            block_queries=block_queries,
            block_channels=block_channels,
            num_warps=warps,
            enable_fp_fusion=True,
        )


@triton.jit  # type: ignore[untyped-decorator]
def _rows(
    positions: tl.tensor, queries: tl.tensor, heads: tl.constexpr, channels: tl.constexpr, block_queries: tl.constexpr
) -> tl.tuple:
    """Row (query and head) of each of the program's queries, which of them exist, and where the values of the image and head begin."""
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * block_queries + tl.arange(0, block_queries)
    return (batch * queries + query) * heads + head, query < queries, (batch * positions * heads + head) * channels


@triton.jit  # type: ignore[untyped-decorator]
def _axis(location: tl.tensor, size: tl.tensor) -> tl.tuple:
    """Along one axis: index of the neighbour before a location, share of the next one, whether each of the two is inside the map."""
    pixel = location * size - 0.5
    # The comparison is False for NaN. Both neighbours of -2 are outside, so nothing is read or written there.
    pixel = tl.where((pixel >= -1) & (pixel < size), pixel, -2.0)
    before = tl.floor(pixel)
    return before.to(tl.int32), pixel - before, before >= 0, (before >= -1) & (before + 1 < size)


@triton.jit  # type: ignore[untyped-decorator]
def _corners(x: tl.tensor, y: tl.tensor, width: tl.tensor, height: tl.tensor, is_channel: tl.tensor) -> tl.tuple:
    """Index of a location's top left neighbour, the shares of the right and of the lower neighbours, and which of the four are inside.

    The four are top left, top right, bottom left and bottom right. Index and insides broadcast with a row of channels.
    """
    left, right, left_inside, right_inside = _axis(x, width)
    top, down, top_inside, bottom_inside = _axis(y, height)
    index = (top * tl.cast(width, tl.int32) + left).to(tl.int64)
    left_inside, right_inside = left_inside[:, None] & is_channel, right_inside[:, None] & is_channel
    top_inside, bottom_inside = top_inside[:, None], bottom_inside[:, None]
    inside = (
        top_inside & left_inside,
        top_inside & right_inside,
        bottom_inside & left_inside,
        bottom_inside & right_inside,
    )
    return index[:, None], right, down, inside


@triton.jit  # type: ignore[untyped-decorator]
def _point(locations: tl.tensor, weights: tl.tensor, index: tl.tensor, is_query: tl.tensor) -> tl.tuple:
    """Location and weight of one point of each query; rows beyond the last query get a location far outside."""
    x = tl.load(locations + 2 * index, mask=is_query, other=-1.0)
    y = tl.load(locations + 2 * index + 1, mask=is_query, other=-1.0)
    return x, y, tl.load(weights + index, mask=is_query, other=0.0).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _tile(pointers: tl.tensor, mask: tl.tensor) -> tl.tensor:
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["positions", "queries"])  # type: ignore[untyped-decorator]
def _forward_kernel(
    inputs: tl.tuple,
    outputs: tl.tuple,
    sizes: tl.tuple,
    positions: tl.tensor,
    queries: tl.tensor,
    heads: tl.constexpr,
    channels: tl.constexpr,
    levels: tl.constexpr,
    points: tl.constexpr,
    block_queries: tl.constexpr,
    block_channels: tl.constexpr,
) -> None:
    values, locations, weights = inputs
    row, is_query, start = _rows(positions, queries, heads, channels, block_queries)
    channel = tl.arange(0, block_channels)[None, :]
    step = heads * channels  # from a pixel to the next
    level_values = values + start + channel
    total = tl.zeros([block_queries, block_channels], dtype=tl.float32)
    for level in tl.static_range(levels):
        height, width = sizes[2 * level], sizes[2 * level + 1]
        row_step = tl.cast(width, tl.int32) * step
        for point in range(points):
            x, y, weight = _point(locations, weights, row * (levels * points) + level * points + point, is_query)
            index, right, down, inside = _corners(x, y, width, height, channel < channels)
            corner = level_values + index * step
            upper, lower = weight * (1 - down), weight * down
            total += (upper * (1 - right))[:, None] * _tile(corner, inside[0])
            total += (upper * right)[:, None] * _tile(corner + step, inside[1])
            total += (lower * (1 - right))[:, None] * _tile(corner + row_step, inside[2])
            total += (lower * right)[:, None] * _tile(corner + row_step + step, inside[3])
        level_values += tl.cast(height, tl.int64) * row_step
    tl.store(outputs[0] + row[:, None] * channels + channel, total, mask=is_query[:, None] & (channel < channels))


@triton.jit  # type: ignore[untyped-decorator]
def _slopes(
    values: tl.tensor, offsets: tl.tuple, inside: tl.tuple, gradient: tl.tensor, right: tl.tensor, down: tl.tensor
) -> tl.tuple:
    """Gradients of one sample per query: with respect to its weight and, for a weight of 1, to its x and y in pixels.

    They follow from the products of the four neighbours with the incoming gradient.
    """
    top_left = tl.sum(_tile(values + offsets[0], inside[0]) * gradient, axis=1)
    top_right = tl.sum(_tile(values + offsets[1], inside[1]) * gradient, axis=1)
    bottom_left = tl.sum(_tile(values + offsets[2], inside[2]) * gradient, axis=1)
    bottom_right = tl.sum(_tile(values + offsets[3], inside[3]) * gradient, axis=1)
    top, bottom = top_right - top_left, bottom_right - bottom_left
    above, below = top_left + right * top, bottom_left + right * bottom
    return above + down * (below - above), top + down * (bottom - top), below - above


@triton.jit(do_not_specialize=["positions", "queries"])  # type: ignore[untyped-decorator]
def _backward_kernel(
    inputs: tl.tuple,
    outputs: tl.tuple,
    sizes: tl.tuple,
    positions: tl.tensor,
    queries: tl.tensor,
    heads: tl.constexpr,
    channels: tl.constexpr,
    levels: tl.constexpr,
    points: tl.constexpr,
    block_queries: tl.constexpr,
    block_channels: tl.constexpr,
) -> None:
    values, locations, weights, grad_output = inputs
    row, is_query, level_start = _rows(positions, queries, heads, channels, block_queries)
    row_start = row * (levels * points)
    channel = tl.arange(0, block_channels)[None, :]
    step = heads * channels
    gradient = _tile(grad_output + row[:, None] * channels + channel, is_query[:, None] & (channel < channels))
    # One column per point, stored at the end: a separate store for each point would first have to exchange its numbers between threads.
    zeros = tl.zeros([block_queries, block_channels], dtype=tl.float32)
    grad_weights, grad_x, grad_y = zeros, zeros, zeros
    for level in tl.static_range(levels):
        height, width = sizes[2 * level], sizes[2 * level + 1]
        row_step = tl.cast(width, tl.int32) * step
        for point in range(points):
            column = level * points + point
            x, y, weight = _point(locations, weights, row_start + column, is_query)
            index, right, down, inside = _corners(x, y, width, height, channel < channels)
            corner = level_start + index * step + channel
            offsets = (corner, corner + step, corner + row_step, corner + row_step + step)
            shares = ((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right)
            for neighbour in tl.static_range(4):
                addend = (weight * shares[neighbour])[:, None] * gradient
                tl.atomic_add(outputs[0] + offsets[neighbour], addend, mask=inside[neighbour], sem="relaxed")
            by_weight, by_x, by_y = _slopes(values, offsets, inside, gradient, right, down)
            grad_weights = tl.where(channel == column, by_weight[:, None], grad_weights)
            grad_x = tl.where(channel == column, (weight * width * by_x)[:, None], grad_x)
            grad_y = tl.where(channel == column, (weight * height * by_y)[:, None], grad_y)
        level_start += tl.cast(height, tl.int64) * row_step
    indices, is_point = row_start[:, None] + channel, is_query[:, None] & (channel < levels * points)
    tl.store(outputs[1] + 2 * indices, grad_x, mask=is_point)
    tl.store(outputs[1] + 2 * indices + 1, grad_y, mask=is_point)
    tl.store(outputs[2] + indices, grad_weights, mask=is_point)
