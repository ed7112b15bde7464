"""Multi-scale deformable attention, the operator (Zhu et al., Deformable DETR, arXiv 2010.04159, section 4.1) and its implementations."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.errors import ConfigurationError, closest
from detrkit.layers.precision import at_least_float32

LevelSizes = tuple[tuple[int, int], ...]  # (height, width) in cells
Operator = Callable[[Tensor, LevelSizes, Tensor, Tensor], Tensor]

ENVIRONMENT_VARIABLE = "DETRKIT_DEFORMABLE_ATTENTION"
NAMES = ("reference", "bags", "numba", "triton")

_chosen_name: contextvars.ContextVar[str | None] = contextvars.ContextVar("deformable_attention_by", default=None)
_starts_quickly: contextvars.ContextVar[bool] = contextvars.ContextVar("without_compiled_kernels", default=False)


@dataclass(frozen=True)
class Implementation:
    """One way to compute the operator.

    Attributes:
        name: for `deformable_attention_by` and the environment variable.
        usable: whether this installation and this computer can run it.
        reason: why it is or is not usable, or why it was chosen.
        devices: where it runs; empty means anywhere.
        precisions: the types in which it computes sums.
        without_float64: whether it cannot compute in float64.
    """

    name: str
    usable: bool
    reason: str
    devices: tuple[str, ...]
    precisions: str
    without_float64: bool = False

    def fits(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether it can work on values of this type on this device."""
        runs_on_device = not self.devices or device.type in self.devices
        return self.usable and runs_on_device and not (self.without_float64 and dtype == torch.float64)


def multi_scale_deformable_attention(
    values: Tensor, level_sizes: LevelSizes, locations: Tensor, weights: Tensor
) -> Tensor:
    """Each head of each query adds up a few samples of each level of a feature pyramid.

    Equation 3 of the paper without its linear layers: for query q and head m of M, with L levels and K points on each,

        result[q, m] = Σ_l Σ_k weights[q, m, l, k] · sample(values of level l and head m at locations[q, m, l, k])

    (equation 2 is the case L = 1). A sample is bilinear between the four nearest cells, whose centres lie at (column + 0.5) / width and
    (row + 0.5) / height; values outside the map are 0. A NaN or infinite location never reads outside the map; its sample is 0 in all
    implementations except 'reference', where it is undefined. `choice` says which implementation runs.

    Args:
        values: (B, S, M, C) in any floating type, the cells of all levels, level after level, each level row by row.
        level_sizes: (height, width) of each of the L levels in cells; S is the sum of their products.
        locations: (B, Q, M, L, K, 2) as (x, y), 0 to 1 over the whole (padded) map, float32 or float64; may be outside.
        weights: (B, Q, M, L, K), used as they are, without normalisation.

    Returns:
        (B, Q, M * C), head by head, in the type of `values`.

    Raises:
        ConfigurationError: shapes that do not match, locations in half precision, or an implementation that was requested by name and
            cannot be used.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return deformable_attention_reference(values, level_sizes, locations, weights)
    _check(values, level_sizes, locations, weights)
    if torch.compiler.is_compiling():  # imports the compiler, which costs a second and 150 MB
        from detrkit.layers.sampling.compiling import bags_outside_of_graphs, name_as_constant

        name = name_as_constant(values.device, values.dtype)
        compiled = bags_outside_of_graphs if name == "bags" else _operator(name)
        return compiled(values, level_sizes, locations, weights)
    operator = _operator(choice(values.device, values.dtype).name)
    return operator(values, level_sizes, locations, weights)


def deformable_attention_reference(
    values: Tensor, level_sizes: LevelSizes, locations: Tensor, weights: Tensor
) -> Tensor:
    """The formula in plain PyTorch: `grid_sample` on each level. Runs anywhere, is what gets exported, and the others are tested against it.

    Takes and returns the same as `multi_scale_deformable_attention`, but checks nothing.
    """
    precise = at_least_float32(values)
    batch, _, heads, channels = precise.shape
    grids = (2 * locations.to(precise.dtype) - 1).transpose(1, 2).flatten(0, 1)  # (B * M, Q, L, K, 2), -1 to 1
    factors = weights.to(precise.dtype).transpose(1, 2).flatten(0, 1)  # (B * M, Q, L, K)
    levels = torch.split(precise, [height * width for height, width in level_sizes], dim=1)
    parts = []
    for level, (height, width) in enumerate(level_sizes):
        maps = levels[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        samples = F.grid_sample(maps, grids[:, :, level], padding_mode="zeros", align_corners=False)  # (B * M, C, Q, K)
        parts.append((samples * factors[:, None, :, level]).sum(-1))
    total = torch.stack(parts).sum(0)  # (B * M, C, Q)
    return torch.unflatten(total, 0, (batch, heads)).flatten(1, 2).transpose(1, 2).to(values.dtype)


@contextlib.contextmanager
def deformable_attention_by(name: str) -> Iterator[None]:
    """Makes one implementation run inside a `with` block of this thread, for comparisons and debugging.

    Exported graphs still contain the reference, since nothing else runs elsewhere.

    Args:
        name: 'reference', 'bags', 'numba' or 'triton'.

    Raises:
        ConfigurationError: the name is unknown or cannot be used on this computer.
    """
    _usable(name, "deformable_attention_by")
    token = _chosen_name.set(name)
    try:
        yield
    finally:
        _chosen_name.reset(token)


@contextlib.contextmanager
def without_compiled_kernels() -> Iterator[None]:
    """On the CPU, plain PyTorch runs inside a `with` block of this thread, unless an implementation was requested.

    For a few small pictures that takes less time than loading numba does, and 100 MB less.
    """
    token = _starts_quickly.set(True)
    try:
        yield
    finally:
        _starts_quickly.reset(token)


def implementations() -> list[Implementation]:
    """All implementations, whether they can be used on this computer, and why."""
    return [_implementation(name) for name in NAMES]


def choice(device: torch.device, dtype: torch.dtype) -> Implementation:
    """The implementation that would run now, and why.

    A `deformable_attention_by` block comes first, then the environment variable DETRKIT_DEFORMABLE_ATTENTION, then the fastest: 'triton'
    on CUDA, 'numba' on the CPU or 'bags' where numba is missing, and 'reference' everywhere else, and on the CPU in a block
    `without_compiled_kernels`.

    Args:
        device: of the values.
        dtype: of the values.

    Raises:
        ConfigurationError: the requested implementation is unknown or cannot be used here.
    """
    for name, source in (
        (_chosen_name.get(), "deformable_attention_by"),
        (os.environ.get(ENVIRONMENT_VARIABLE), ENVIRONMENT_VARIABLE),
    ):
        if name:
            requested = _usable(name, source, device, dtype)
            return replace(requested, reason=f"requested by {source}")
    if device.type == "cpu" and _starts_quickly.get():
        return replace(_implementation("reference"), reason="needs nothing loaded")
    passed_over: list[str] = []
    for name in {"cpu": ("numba", "bags"), "cuda": ("triton",)}.get(device.type, ()):
        candidate = _implementation(name)
        if candidate.fits(device, dtype):
            return replace(
                candidate, reason="; ".join([f"the fastest for {device.type}: {candidate.reason}", *passed_over])
            )
        problem = f"it has no {dtype}" if candidate.usable else candidate.reason
        passed_over.append(f"not '{name}': {problem}")
    why = "; ".join(passed_over) or f"the only one for {device.type}"
    return replace(_implementation("reference"), reason=f"{why} ({str(dtype).removeprefix('torch.')})")


def _operator(name: str) -> Operator:
    if name == "numba":
        from detrkit.layers.sampling.numba_kernels import deformable_attention_numba

        return deformable_attention_numba
    if name == "triton":
        from detrkit.layers.sampling.triton_kernels import deformable_attention_triton

        return deformable_attention_triton
    if name == "bags":
        from detrkit.layers.sampling.without_numba import deformable_attention_bags

        bags: Operator = deformable_attention_bags
        return bags
    return deformable_attention_reference


def _usable(
    name: str, source: str, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Implementation:
    def can_be_used(each: Implementation) -> bool:
        return each.usable if device is None else each.fits(device, dtype)

    if name in NAMES and can_be_used(_implementation(name)):
        return _implementation(name)  # the others need not be loaded
    candidates = [each for each in implementations() if can_be_used(each)]
    where = "on this computer" if device is None else f"with {str(dtype).removeprefix('torch.')} on '{device.type}'"
    usable = ", ".join(f"'{each.name}'" for each in candidates)
    if name not in NAMES:
        raise ConfigurationError(
            f"{source}: there is no deformable attention by '{name}', {closest(name, NAMES)} (usable {where}: {usable})"
        )
    unusable = _implementation(name)
    problem = "" if unusable.usable else f" ({unusable.reason})"
    raise ConfigurationError(
        f"{source}: deformable attention by '{name}' cannot be used {where}{problem}, choose one of {usable}"
    )


@functools.cache
def _implementation(name: str) -> Implementation:
    if name == "reference":
        return Implementation(
            name, True, "plain PyTorch, grid_sample per level", (), "float32, float64; half precision in float32"
        )
    if name == "bags":
        return Implementation(
            name, True, "plain PyTorch, embedding_bag", ("cpu",), "float32, float64; half precision in float32"
        )
    devices = ("cpu",) if name == "numba" else ("cuda",)
    precisions = "float32, float64; half precision in float32" if name == "numba" else "float32, float16, bfloat16"
    try:
        version = importlib.import_module(name).__version__
        if name == "numba":
            importlib.import_module("detrkit.layers.sampling.numba_kernels")
    except ImportError as error:  # also if it is installed but incompatible with another package
        return Implementation(name, False, f"{name} cannot be imported: {error}", devices, precisions)
    except RuntimeError as error:  # numba finds no folder to write to
        reason = f"numba has no folder for its compiled code, set NUMBA_CACHE_DIR to one: {error}"
        return Implementation(name, False, reason, devices, precisions)
    if name == "triton" and not torch.cuda.is_available():
        return Implementation(name, False, f"triton {version}, but PyTorch sees no CUDA device", devices, precisions)
    return Implementation(name, True, f"{name} {version}", devices, precisions, without_float64=name == "triton")


def _check(values: Tensor, level_sizes: LevelSizes, locations: Tensor, weights: Tensor) -> None:
    """Checks only shapes and types: reading values would wait for the device."""
    for level, (height, width) in enumerate(level_sizes):
        if height < 1 or width < 1:
            raise ConfigurationError(
                f"level {level} is {height} x {width}, and a level smaller than one cell cannot be sampled; use larger images or fewer levels"
            )
    cells = sum(height * width for height, width in level_sizes)
    if values.dim() != 4 or values.shape[1] != cells:
        sizes = ", ".join(f"{height} x {width}" for height, width in level_sizes)
        raise ConfigurationError(
            f"values of shape {tuple(values.shape)} are not (batch, {cells} cells, heads, channels), as levels of {sizes} need"
        )
    if not values.is_floating_point() or values.shape[3] < 1:
        raise ConfigurationError(
            f"values of {values.dtype} and shape {tuple(values.shape)} cannot be added up: give floats"
        )
    if not values.device == locations.device == weights.device:
        raise ConfigurationError(
            f"values are on {values.device}, locations on {locations.device} and weights on {weights.device}: move them to one device"
        )
    batch, _, heads, _ = values.shape
    levels = len(level_sizes)
    if (
        locations.dim() != 6
        or locations.shape[-1] != 2
        or locations.shape[0] != batch
        or locations.shape[2:4] != (heads, levels)
    ):
        raise ConfigurationError(
            f"locations of shape {tuple(locations.shape)} are not ({batch} images, queries, {heads} heads, {levels} levels, points, 2), "
            f"which the values and the {levels} level sizes ask for"
        )
    if weights.shape != locations.shape[:-1]:
        raise ConfigurationError(
            f"weights of shape {tuple(weights.shape)} do not fit locations of shape {tuple(locations.shape)}: one weight per location is needed"
        )
    if locations.dtype not in (torch.float32, torch.float64):
        raise ConfigurationError(
            f"locations are {locations.dtype}, which is too coarse for coordinates: give them as torch.float32"
        )
