"""What TSP-FCOS and TSP-RCNN share: settings without a decoder, images whose sides are whole numbers of cells, and how they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from detrkit.cards import CAFFE_COLOURS, Preprocessing, Recipe
from detrkit.errors import OptionError
from detrkit.layers.pre_norm import PreNormEncoder
from detrkit.models.detector import without_padding
from detrkit.models.settings import Settings
from detrkit.structures import ImageBatch

DIVISOR = 32  # both sides of a batch are multiples of it, so that levels fit onto each other


@dataclass(frozen=True)
class TSPSettings(Settings):
    """Settings of both papers; the defaults are those of the authors' scripts.

    Attributes:
        class_count: outputs of the class head, not counting background.
        queries: Q, the number of features or regions that become tokens.
        pyramid_width: channels of the feature pyramid.
        decoder_layers: 0, since there is no decoder.
        drop: the largest share of the tokens that is left out of a training step, at random.

    Raises:
        ConfigurationError: see `Settings`; or a decoder.
    """

    class_count: int = 80
    backbone: str = "resnet50-caffe"
    queries: int = 700
    width: int = 512
    decoder_layers: int = 0
    pyramid_width: int = 256
    drop: float = 0.3
    class_weight: float = 1.0

    least: ClassVar[dict[str, int]] = Settings.least | {"decoder_layers": 0, "pyramid_width": 1, "drop": 0}

    @property
    def token_levels(self) -> int:
        """See `Settings.token_levels`."""
        return 5

    @property
    def compares_all(self) -> bool:
        """See `Settings.compares_all`; only the chosen tokens are compared."""
        return False

    @property
    def kept_per_cell(self) -> int:
        """See `Settings.kept_per_cell`: a dozen convolutions of the pyramid and its heads, each with norm and activation."""
        return 30 * self.pyramid_width

    def encoded(self, tokens: float) -> float:
        """See `Settings.encoded`; only the chosen tokens."""
        return min(tokens, self.queries)

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if self.decoder_layers:
            raise OptionError(
                f"decoder_layers must be 0, not {self.decoder_layers}: this paper takes the decoder out",
                "decoder_layers",
            )
        if not self.drop < 1:
            raise OptionError(f"drop must be below 1, not {self.drop}: no token would be left", "drop")
        if self.backbone.endswith(("-dc5", "-c4", "-c3")):
            raise OptionError(
                f"backbone must have levels of stride 8, 16 and 32, which '{self.backbone}' does not: leave out its ending",
                "backbone",
            )


def encoder(config: TSPSettings) -> PreNormEncoder:
    """Self-attention among the chosen tokens."""
    return PreNormEncoder(
        layers=config.encoder_layers,
        width=config.width,
        attention_heads=config.attention_heads,
        hidden=config.hidden,
        dropout=config.dropout,
    )


def padded(batch: ImageBatch) -> ImageBatch:
    """The batch with zeros behind its padding, and with more padding up to the next multiples of `DIVISOR`."""
    batch = without_padding(batch)
    height, width = batch.pixels.shape[-2:]
    more = (0, -width % DIVISOR, 0, -height % DIVISOR)
    padding = None if batch.padding is None else F.pad(batch.padding, more, value=True)
    return replace(batch, pixels=F.pad(batch.pixels, more), padding=padding)


def level_paddings(padding: Tensor | None, levels: tuple[Tensor, ...]) -> list[Tensor | None]:
    """The padding of each level: each is made from the one before, by nearest cells, as the authors do.

    Args:
        padding: (B, H, W) bool of the images before `padded`, or None.
        levels: (B, C, h, w) of strides 8, 16, ...
    """
    if padding is None:
        return [None] * len(levels)
    sizes = [level.shape[-2:] for level in levels]
    stem = [(side + 1) // 2 for side in padding.shape[-2:]]
    values, found = padding[:, None].float(), []
    for size in (stem, [2 * side for side in sizes[0]], *sizes):
        values = F.interpolate(values, size=size)
        found.append(values[:, 0].bool())
    return [*found[2:]]


ENCODER_RATE = 1e-4
PREPROCESSING = Preprocessing().with_colours(CAFFE_COLOURS)  # the authors begin with Caffe's backbone


def recipe(sgd_rate: float) -> Recipe:
    """The published schedule: AdamW and clipping for the encoder, SGD for the rest; 270,000 steps with drops after 180,000 and 240,000.

    Args:
        sgd_rate: SGD's learning rate.
    """
    return Recipe(
        epochs=36,
        batch_size=16,
        learning_rate=ENCODER_RATE,
        backbone_learning_rate=sgd_rate,
        gradient_clip=0.01,
        drop_after=180 / 270,
        second_drop_after=240 / 270,
        warmup_steps=1000,
        adamw_parts=("encoder",),
        sgd_factor=sgd_rate / ENCODER_RATE,
        augmentation="sizes",
        decay_norms=False,
    )


COMPACT: Mapping[str, Any] = {
    "backbone": "compact",
    "queries": 60,
    "width": 128,
    "pyramid_width": 64,
    "attention_heads": 4,
    "hidden": 256,
    "encoder_layers": 2,
    "dropout": 0.0,
}
COMPACT_RECIPE = Recipe(
    learning_rate=1e-3,
    backbone_learning_rate=1e-3,
    gradient_clip=10.0,
    epochs=20,
    batch_size=16,
    schedule="cosine",
    warmup_steps=50,
)
COMPACT_PREPROCESSING = Preprocessing(short_side=128, long_side=208)
