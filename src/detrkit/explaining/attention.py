"""Where every layer of a model looked, computed from what its attention was called with; nothing is recorded but inside of `recorded_looks`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.models.detector import Detector, unwrapped
from detrkit.structures import Memory

CROSS, SELF, ENCODER = ("decoder", "cross_attention"), ("decoder", "self_attention"), ("encoder", "attention")


@dataclass(frozen=True)
class DenseLook:
    """How much every query looked at every key.

    Attributes:
        weights: (B, M, Q, S) of M heads; each row sums to 1.
        memory: whose tokens the keys are; None for attention among queries, and for a model whose tokens are no cells of a map.
    """

    weights: Tensor
    memory: Memory | None


@dataclass(frozen=True)
class SampledLook:
    """The points at which every query sampled its levels.

    Attributes:
        locations: (B, Q, M, levels, points, 2) x and y as fractions of each level's map, padding included; they may lie outside.
        weights: (B, Q, M, levels, points); those of a head sum to 1.
        memory: whose tokens were sampled.
    """

    locations: Tensor
    weights: Tensor
    memory: Memory

    def points(self) -> Tensor:
        """(B, Q, M, levels, points, 2) x and y as fractions of the image without its padding."""
        return self.locations / self.memory.valid_ratios()[:, None, None, :, None].to(self.locations.dtype)


Look = DenseLook | SampledLook


def layers_of(model: Detector, place: tuple[str, str]) -> list[nn.Module]:
    """The attention modules of a part's layers, first to last; empty where a model has none of the kind.

    Args:
        model: whose layers these are.
        place: name of the part, and of the attention in each of its layers: `CROSS`, `SELF` or `ENCODER`.
    """
    part, attention = place
    layers = getattr(getattr(model, part, None), "layers", ())
    found: list[Any] = [getattr(layer, attention, None) for layer in layers]
    return [each for each in found if hasattr(each, "sampling") or hasattr(each, "weights")]


@contextmanager
def recorded_looks(
    model: nn.Module, place: tuple[str, str], *, keep: Callable[[Look], Any] = lambda look: look
) -> Iterator[list[list[Any]]]:
    """Collects where each layer looks while the context is open, without changing what the model computes.

    Args:
        model: a detector, or a module that wraps one.
        place: see `layers_of`.
        keep: makes of every look what is kept of it, at once, so that the weights of one layer at a time take memory.

    Yields:
        For each layer a list that gets an entry for every call of its attention: one for each forward, but for the encoder of deformable models, which
        on a CPU goes through its tokens in pieces, in order.
    """
    detector, thread = unwrapped(model), threading.get_ident()  # others may run the same model meanwhile
    attentions = layers_of(detector, place)
    kept: list[list[Any]] = [[] for _ in attentions]
    memories: list[Memory | None] = [None]

    def begin(module: nn.Module, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> None:  # noqa: ARG001 - torch requires it
        if threading.get_ident() == thread:
            memories[0] = _memory_among(arguments, keywords)

    def end(index: int) -> Any:
        @torch.no_grad()
        def hook(module: nn.Module, arguments: Sequence[Any], keywords: Mapping[str, Any], result: Any) -> None:  # noqa: ARG001
            if threading.get_ident() == thread:
                memory = None if place == SELF else _memory_among(arguments, keywords) or memories[0]
                kept[index].append(keep(look_of(module, arguments, keywords, memory)))

        return hook

    handles = []
    if attentions:
        handles.append(getattr(detector, place[0]).register_forward_pre_hook(begin, with_kwargs=True))
    handles += [each.register_forward_hook(end(index), with_kwargs=True) for index, each in enumerate(attentions)]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded_results(model: nn.Module, part: str, name: str) -> Iterator[list[list[Any]]]:
    """Collects what a module of this name in each layer of a part returns while the context is open: for each layer that has one, one result a call.

    Args:
        model: a detector, or a module that wraps one.
        part: of the model, such as `decoder`.
        name: such as `gaussian` (SMCA) or `aligner` (SAM).
    """
    detector, thread = unwrapped(model), threading.get_ident()
    layers = getattr(getattr(detector, part, None), "layers", ())
    modules = [getattr(layer, name) for layer in layers if hasattr(layer, name)]
    kept: list[list[Any]] = [[] for _ in modules]

    def keep(index: int) -> Any:
        def hook(module: nn.Module, arguments: Any, result: Any) -> None:  # noqa: ARG001 - torch requires these parameters
            if threading.get_ident() == thread:
                kept[index].append(result)

        return hook

    handles = [module.register_forward_hook(keep(index)) for index, module in enumerate(modules)]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def look_of(module: Any, arguments: Sequence[Any], keywords: Mapping[str, Any], memory: Memory | None) -> Look:
    """Where one call of an attention module looked.

    Args:
        module: the attention, which samples points (`sampling`) or compares all queries with all keys (`weights`).
        arguments: what it was called with.
        keywords: likewise.
        memory: the encoded image; None for attention among queries.
    """
    if hasattr(module, "sampling"):
        assert memory is not None
        locations, weights = module.sampling(*arguments, **keywords)
        return SampledLook(locations, weights, memory)
    return DenseLook(module.weights(*arguments, **keywords), memory)


def _memory_among(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Memory | None:
    """The memory that a call was given, if any."""
    given = (*arguments, *keywords.values())
    return next((each for each in given if isinstance(each, Memory)), None)
