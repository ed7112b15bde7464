"""Codes of positions: which, where, and in how many layers (Carion et al. 2020, arXiv:2005.12872, section 4.2 and table 3)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from detrkit.layers.attention import padding_mask
from detrkit.layers.transformer import Encoder, EncoderLayer, add_position
from detrkit.structures import Memory
from detrkit.studies.parts import width_of
from detrkit.studies.setting import OPTIONS, dense
from detrkit.studies.study import Change, Study, Trial
from detrkit.training.module import TrainingModule

_MOST_CELLS = 64  # along a side


class LearnedPositions(nn.Module):
    """A learned code for each row and one for each column, side by side (DETR, section A.4).

    Args:
        width: D; half for rows, half for columns.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(_MOST_CELLS, width // 2), nn.Embedding(_MOST_CELLS, width // 2)
        for codes in (self.rows, self.columns):
            nn.init.uniform_(codes.weight)  # no larger than sines

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:  # noqa: ARG002 - the same for all images
        """(B, D, h, w)."""
        batch, _, height, width = features.shape
        rows = self.rows.weight[:height, None].expand(-1, width, -1)
        columns = self.columns.weight[None, :width].expand(height, -1, -1)
        return torch.cat([rows, columns], dim=-1).movedim(-1, 0).expand(batch, -1, -1, -1)


class NoPositions(nn.Module):
    """All cells have the same code."""

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:  # noqa: ARG002 - the same for all images
        """(B, D, h, w) zeros."""
        return torch.zeros_like(features)


class KeyPositionLayer(EncoderLayer):
    """An encoder layer that adds codes to its keys alone."""

    def forward(self, tokens: Tensor, positions: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """See `EncoderLayer.forward`."""
        attended = self.attention(tokens, add_position(tokens, positions), tokens, mask)
        return self.feed_forward(self.norm(tokens + self.dropout(attended)))  # type: ignore[no-any-return]


class OnceEncoder(Encoder):
    """An encoder whose tokens get their codes once, before the first layer, as in the original transformer; the decoder's keys get none."""

    def forward(self, memory: Memory) -> Memory:
        """See `Encoder.forward`."""
        assert memory.positions is not None
        placed = replace(memory, tokens=memory.tokens + memory.positions, positions=None)
        return replace(super().forward(placed), positions=torch.zeros_like(memory.positions))


class DecoderPositionEncoder(Encoder):
    """An encoder that adds no codes; the decoder's keys have theirs."""

    def forward(self, memory: Memory) -> Memory:
        """See `Encoder.forward`."""
        return replace(super().forward(replace(memory, positions=None)), positions=memory.positions)


class ConvolutionLayer(nn.Module):
    """An encoder layer behind a depth-wise convolution over the map, which tells cells apart by the zeros around the map.

    Args:
        layer: the encoder layer.
        width: D.
    """

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.convolution = nn.Conv2d(width, width, 3, padding=1, groups=width)
        for parameter in self.convolution.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, positions: Tensor | None, mask: Tensor | None, size: tuple[int, int]) -> Tensor:
        """(B, S, D) to (B, S, D); `size` is that of the map in cells."""
        cells = torch.unflatten(tokens.transpose(1, 2), 2, size)
        tokens = tokens + self.convolution(cells).flatten(2).transpose(1, 2)
        return self.layer(tokens, positions, mask)  # type: ignore[no-any-return]


class ConvolutionEncoder(Encoder):
    """An encoder of layers with convolutions, which need to know the size of the map."""

    def forward(self, memory: Memory) -> Memory:
        """See `Encoder.forward`."""
        tokens, mask = memory.tokens, padding_mask(memory.padding)
        for layer in self.layers:
            tokens = layer(tokens, memory.positions, mask, memory.level_sizes[0])
        return replace(memory, tokens=tokens)


def learned(module: TrainingModule) -> None:
    """Learned codes instead of sines."""
    module.model.get_submodule("neck").position_encoding = LearnedPositions(width_of(module.model))


def none(module: TrainingModule) -> None:
    """No codes of cells; queries keep theirs."""
    module.model.get_submodule("neck").position_encoding = NoPositions()


def keys_only(module: TrainingModule) -> None:
    """In the encoder, codes are added to keys alone; in the decoder it is so anyway."""
    for layer in _encoder(module).layers:
        layer.__class__ = KeyPositionLayer


def decoder_only(module: TrainingModule) -> None:
    """The encoder has no codes."""
    _encoder(module).__class__ = DecoderPositionEncoder


def once(module: TrainingModule) -> None:
    """Codes are added to the tokens once."""
    _encoder(module).__class__ = OnceEncoder


def convolution_instead(module: TrainingModule) -> None:
    """No codes, but a convolution in each encoder layer."""
    none(module)
    convolution_besides(module)


def convolution_besides(module: TrainingModule) -> None:
    """A convolution in each encoder layer, besides the codes."""
    encoder = _encoder(module)
    encoder.layers = nn.ModuleList(ConvolutionLayer(layer, width_of(module.model)) for layer in encoder.layers)
    encoder.__class__ = ConvolutionEncoder


def _encoder(module: TrainingModule) -> Encoder:
    encoder = module.model.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    return encoder


def _with(change: Change | None = None) -> Trial:
    return Trial("detr-compact", dense(encoder_layers=2), change=change)


STUDY = Study(
    title="Codes of positions",
    claim="Codes of cells are needed; without those in the encoder AP falls least; learned ones do as well as sines (DETR, table 3).",
    trials={
        "sines, in every layer": _with(),
        "learned codes": _with(learned),
        "no codes of cells": _with(none),
        "in the decoder only": _with(decoder_only),
        "in the encoder on keys only": _with(keys_only),
        "once, before the first layer": _with(once),
        "a convolution in the encoder, no codes": _with(convolution_instead),
        "a convolution in the encoder, and codes": _with(convolution_besides),
    },
    options={**OPTIONS, "epochs": 4},
    single_class=True,
)
