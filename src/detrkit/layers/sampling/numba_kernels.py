"""Deformable attention on the CPU: kernels that numba compiles on first use for the current number of channels, and keeps on disk.

One task is one head of one image. In the backward pass each task has its own slice of every gradient, so threads do not conflict. Tasks run
on our own threads (`_run_in_threads`), because numba's own threading ends the process when two Python threads use it at once. Sums are
always computed in the same order, whatever the number of threads.
"""

# numba and torch prescribe the parameters of the functions they call, and numba's types do not describe what its decorators return.
# ruff: noqa: ARG001
# mypy: disable-error-code="arg-type, call-arg, import-untyped, no-untyped-call, unreachable, untyped-decorator, var-annotated"

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray
from torch import Tensor

from detrkit.layers.precision import at_least_float32

# With fewer points per thread, starting the thread costs more than it saves.
POINTS_WORTH_A_THREAD = 100_000
# Copying the cells of a head side by side pays off if each is read this often on average.
READS_WORTH_A_COPY = 8


def deformable_attention_numba(
    values: Tensor, level_sizes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor
) -> Tensor:
    """`multi_scale_deformable_attention` on the CPU, in float32 or float64; half precision is computed in float32.

    Up to B * M threads share the work, `torch.get_num_threads()` at most. Only the inputs are saved for the backward pass. The sample at a
    NaN or infinite location is 0, and so are its gradients.
    """
    precise = at_least_float32(values)
    sizes = [size for level in level_sizes for size in level]
    attend = torch.ops.detrkit.deformable_attention_numba
    result: Tensor = attend(precise, locations.to(precise.dtype), weights.to(precise.dtype), sizes)
    return result.to(values.dtype)


def _attend(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
    batch, cells, heads, channels = values.shape
    result = values.new_empty(batch, locations.shape[1], heads * channels)
    heads_first = _heads_first(values)
    copied = not heads_first and _worth_a_copy(weights, cells)
    table, *rest, flat_result = (_array(each) for each in (_contiguous(values), locations, weights, result))
    lanes, level_sizes = (0,) * channels, np.asarray(sizes).reshape(-1, 2)

    def task(image: int, head: int) -> None:
        source, first, stride = _cells(table, image, head, heads_first, copied)
        _forward(source, first, stride, level_sizes, *rest, image, head, lanes, flat_result.reshape(-1))

    _run_in_threads(task, batch, heads, weights.numel())
    return result


def _attend_backward(
    gradient: Tensor, values: Tensor, locations: Tensor, weights: Tensor, sizes: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    batch, cells, heads, channels = values.shape
    heads_first = _heads_first(values)
    copied = not heads_first and _worth_a_copy(weights, cells)
    values = _contiguous(values)
    grad_values = values.new_empty(values.shape) if copied else values.new_zeros(values.shape)
    grad_locations, grad_weights = locations.new_empty(locations.shape), weights.new_empty(weights.shape)
    table, *inputs = (_array(each) for each in (values, locations, weights))
    flat_gradient, grad_table, *outputs = (
        _array(each) for each in (gradient, grad_values, grad_locations, grad_weights)
    )
    lanes, level_sizes = (0,) * channels, np.asarray(sizes).reshape(-1, 2)

    def task(image: int, head: int) -> None:
        source, first, stride = _cells(table, image, head, heads_first, copied)
        target = _scratch(source) if copied else grad_table.reshape(-1)
        if copied:
            target.fill(0)
        tables = (source, target, first, stride, level_sizes)
        _backward(*tables, *inputs, image, head, lanes, flat_gradient.reshape(-1), *outputs)
        if copied:
            grad_table[image, :, head] = target.reshape(cells, channels)

    _run_in_threads(task, batch, heads, weights.numel())
    return grad_values.transpose(1, 2).contiguous() if heads_first else grad_values, grad_locations, grad_weights


def _fake(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
    return values.new_empty(values.shape[0], locations.shape[1], values.shape[2] * values.shape[3])


def _fake_backward(
    gradient: Tensor, values: Tensor, locations: Tensor, weights: Tensor, sizes: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    return values.new_empty(values.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Sequence[int]], output: Tensor) -> None:
    *tensors, ctx.sizes = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    attend_backward = torch.ops.detrkit.deformable_attention_numba_backward
    return *attend_backward(gradient, *ctx.saved_tensors, ctx.sizes), None


def _no_second_derivative(ctx: Any, *gradients: Tensor) -> None:
    raise NotImplementedError(
        "deformable attention by numba has no second derivative: compute it in a block `with deformable_attention_by('reference')`"
    )


def _worth_a_copy(weights: Tensor, cells: int) -> bool:
    """Whether a head reads its scattered cells so often that copying them side by side first, into the processor's cache, saves time."""
    return 4 * weights[:1, :, :1].numel() > READS_WORTH_A_COPY * cells


def _heads_first(values: Tensor) -> bool:
    """Whether (B, S, M, C) values are a view of (B, M, S, C) memory, in which the cells of a head are already side by side."""
    return values.shape[2] > 1 and values.transpose(1, 2).is_contiguous()


def _contiguous(values: Tensor) -> Tensor:
    """Contiguous values: (B, M, S, C) if they are stored that way, otherwise (B, S, M, C)."""
    return values.transpose(1, 2) if _heads_first(values) else values.contiguous()


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def _cells(
    table: NDArray[Any], image: int, head: int, heads_first: bool, copied: bool
) -> tuple[NDArray[Any], int, int]:
    """The cells of one head in a flat array, the index at which the first cell begins, and the distance from one cell to the next.

    The table is (B, M, S, C) if heads come first, otherwise (B, S, M, C); then the head's cells can be copied.
    """
    if heads_first:
        _, heads, cells, channels = table.shape
        return table.reshape(-1), (image * heads + head) * cells * channels, channels
    _, cells, heads, channels = table.shape
    if not copied:
        return table.reshape(-1), (image * cells * heads + head) * channels, heads * channels
    copy = _scratch(table[image, :, head])
    np.copyto(copy.reshape(cells, channels), table[image, :, head])
    return copy, 0, channels


def _scratch(like: NDArray[Any]) -> NDArray[Any]:
    """A flat array of the same size, allocated by torch, which aligns it to cache lines as numpy does not."""
    return torch.empty(like.size, dtype=torch.from_numpy(like).dtype).numpy()


def _run_in_threads(task: Callable[[int, int], None], batch: int, heads: int, points: int) -> None:
    """Runs the task for each head of each image, on this thread and on helper threads, `torch.get_num_threads()` in all at most."""
    waiting: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for image in range(batch):
        for head in range(heads):
            waiting.put((image, head))

    def work() -> None:
        while True:
            try:
                image, head = waiting.get_nowait()
            except queue.Empty:
                return
            task(image, head)

    helpers = min(torch.get_num_threads(), batch * heads, 1 + points // POINTS_WORTH_A_THREAD) - 1
    if helpers <= 0:
        work()
        return
    with ThreadPoolExecutor(helpers) as pool:
        running = [pool.submit(work) for _ in range(helpers)]
        work()
        for each in running:
            each.result()


class _Vector(types.Type):
    """All channels of a cell, in the processor's vector registers."""

    def __init__(self, scalar: Any, length: int) -> None:
        super().__init__(name=f"Vector({scalar}, {length})")
        self.scalar, self.length = scalar, length


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: _Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(manager[kind.scalar].get_value_type(), kind.length))


# In the functions on vectors, `lanes` is a tuple whose length is the number of channels: the compiler knows it from the type of the tuple.


@intrinsic
def _zeros(typing: Any, array: Any, lanes: Any) -> Any:
    """A vector of zeros."""
    kind = _Vector(array.dtype, len(lanes))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(kind), None)

    return kind(array, lanes), generate


def _address(context: Any, builder: Any, array: Any, arguments: Any, kind: _Vector) -> Any:
    data = cgutils.create_struct_proxy(array)(context, builder, arguments[0]).data
    return builder.bitcast(builder.gep(data, [arguments[1]]), context.get_value_type(kind).as_pointer())


@intrinsic
def _load(typing: Any, array: Any, index: Any, lanes: Any) -> Any:
    """The vector that begins at this index of a flat array."""
    kind = _Vector(array.dtype, len(lanes))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(context, builder, array, arguments, kind), align=array.dtype.bitwidth // 8)

    return kind(array, types.intp, lanes), generate


@intrinsic
def _store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Writes the vector to this index of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, array, arguments, vector)
        builder.store(arguments[2], address, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def _multiply_add(typing: Any, factor: Any, vector: Any, addend: Any) -> Any:
    """Factor * vector + addend."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        index = ir.IntType(32)
        single = ir.Constant(context.get_value_type(vector), ir.Undefined)
        single = builder.insert_element(single, arguments[0], ir.Constant(index, 0))
        everywhere = ir.Constant(ir.VectorType(index, vector.length), [0] * vector.length)
        product = builder.fmul(builder.shuffle_vector(single, single, everywhere), arguments[1], flags=("contract",))
        return builder.fadd(product, arguments[2], flags=("contract",))  # "contract": one rounding, as one instruction

    return vector(vector.scalar, vector, vector), generate


@intrinsic
def _dot(typing: Any, one: Any, other: Any) -> Any:
    """The sum of products."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(one)
        name = f"llvm.vector.reduce.fadd.v{one.length}f{one.scalar.bitwidth}"
        reduce = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind.element, [kind.element, kind]), name
        )
        product = builder.fmul(*arguments)
        return builder.call(reduce, [ir.Constant(kind.element, 0.0), product], fastmath=("reassoc",))

    return one.scalar(one, other), generate


@njit(nogil=True, cache=True, error_model="numpy")
def _forward(
    values: NDArray[Any],
    first: int,
    stride: int,
    level_sizes: NDArray[Any],
    locations: NDArray[Any],
    weights: NDArray[Any],
    image: int,
    head: int,
    lanes: tuple[int, ...],
    result: NDArray[Any],
) -> None:
    _, queries, heads, levels, points = weights.shape
    scalar = values.dtype.type
    half, border = scalar(0.5), scalar(-1)
    for query in range(queries):
        total = _zeros(values, lanes)
        level_start = first
        for level in range(levels):
            height, width = level_sizes[level, 0], level_sizes[level, 1]
            rows, columns = scalar(height), scalar(width)
            for point in range(points):
                x = locations[image, query, head, level, point, 0] * columns - half
                y = locations[image, query, head, level, point, 1] * rows - half
                if not (
                    border < x and x < columns and border < y and y < rows
                ):  # written so that NaN counts as outside
                    continue
                left, top = int(np.floor(x)), int(np.floor(y))
                right_share, lower_share = x - np.floor(x), y - np.floor(y)
                left_share, upper_share = scalar(1) - right_share, scalar(1) - lower_share
                corner = level_start + (top * width + left) * stride
                sample = _zeros(values, lanes)
                if top >= 0:
                    if left >= 0:
                        sample = _multiply_add(upper_share * left_share, _load(values, corner, lanes), sample)
                    if left + 1 < width:
                        sample = _multiply_add(upper_share * right_share, _load(values, corner + stride, lanes), sample)
                if top + 1 < height:
                    corner += width * stride
                    if left >= 0:
                        sample = _multiply_add(lower_share * left_share, _load(values, corner, lanes), sample)
                    if left + 1 < width:
                        sample = _multiply_add(lower_share * right_share, _load(values, corner + stride, lanes), sample)
                total = _multiply_add(weights[image, query, head, level, point], sample, total)
            level_start += height * width * stride
        _store(result, ((image * queries + query) * heads + head) * len(lanes), total)


@njit(nogil=True, cache=True)
def _corner_backward(
    values: NDArray[Any], grad_values: NDArray[Any], index: int, share: float, gradient: Any, lanes: tuple[int, ...]
) -> Any:
    """Adds to the gradient of a cell; returns the derivative of the loss with respect to the cell's share."""
    _store(grad_values, index, _multiply_add(share, gradient, _load(grad_values, index, lanes)))
    return _dot(gradient, _load(values, index, lanes))


@njit(nogil=True, cache=True, error_model="numpy")
def _backward(
    values: NDArray[Any],
    grad_values: NDArray[Any],
    first: int,
    stride: int,
    level_sizes: NDArray[Any],
    locations: NDArray[Any],
    weights: NDArray[Any],
    image: int,
    head: int,
    lanes: tuple[int, ...],
    gradients: NDArray[Any],
    grad_locations: NDArray[Any],
    grad_weights: NDArray[Any],
) -> None:
    _, queries, heads, levels, points = weights.shape
    scalar = values.dtype.type
    half, border, zero = scalar(0.5), scalar(-1), scalar(0)
    for query in range(queries):
        gradient = _load(gradients, ((image * queries + query) * heads + head) * len(lanes), lanes)
        level_start = first
        for level in range(levels):
            height, width = level_sizes[level, 0], level_sizes[level, 1]
            rows, columns = scalar(height), scalar(width)
            for point in range(points):
                x = locations[image, query, head, level, point, 0] * columns - half
                y = locations[image, query, head, level, point, 1] * rows - half
                if not (border < x and x < columns and border < y and y < rows):
                    grad_weights[image, query, head, level, point] = zero
                    grad_locations[image, query, head, level, point, 0] = zero
                    grad_locations[image, query, head, level, point, 1] = zero
                    continue
                left, top = int(np.floor(x)), int(np.floor(y))
                right_share, lower_share = x - np.floor(x), y - np.floor(y)
                weight = weights[image, query, head, level, point]
                lower = weight * lower_share
                upper = weight - lower
                corner = level_start + (top * width + left) * stride
                upper_left = upper_right = lower_left = lower_right = zero
                if top >= 0:
                    if left >= 0:
                        share = upper - upper * right_share
                        upper_left = _corner_backward(values, grad_values, corner, share, gradient, lanes)
                    if left + 1 < width:
                        share = upper * right_share
                        upper_right = _corner_backward(values, grad_values, corner + stride, share, gradient, lanes)
                if top + 1 < height:
                    corner += width * stride
                    if left >= 0:
                        share = lower - lower * right_share
                        lower_left = _corner_backward(values, grad_values, corner, share, gradient, lanes)
                    if left + 1 < width:
                        share = lower * right_share
                        lower_right = _corner_backward(values, grad_values, corner + stride, share, gradient, lanes)
                above = upper_left + right_share * (upper_right - upper_left)
                below = lower_left + right_share * (lower_right - lower_left)
                slope = upper * (upper_right - upper_left) + lower * (lower_right - lower_left)
                grad_weights[image, query, head, level, point] = above + lower_share * (below - above)
                grad_locations[image, query, head, level, point, 0] = columns * slope
                grad_locations[image, query, head, level, point, 1] = rows * weight * (below - above)
            level_start += height * width * stride


_LIBRARY = torch.library.Library("detrkit", "FRAGMENT")  # the operators exist as long as this object


def _register(
    name: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
) -> None:
    """Registers an operator like `torch.library.custom_op`, which would import the compiler at the first call: 2 s and 0.2 GB."""
    schema, full_name = torch.library.infer_schema(kernel, mutates_args=()), f"detrkit::{name}"
    torch.library.define(full_name, schema, lib=_LIBRARY, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(full_name, "cpu", kernel, lib=_LIBRARY)
    torch.library.register_fake(full_name, fake, lib=_LIBRARY)
    torch.library.register_autograd(full_name, backward, setup_context=setup_context, lib=_LIBRARY)


# Last, so that nothing is registered if importing the module fails.
_register("deformable_attention_numba_backward", _attend_backward, _fake_backward, _no_second_derivative)
_register("deformable_attention_numba", _attend, _fake, _differentiate, _save)
