"""How many pieces a batch is split into, so that a training step of any variant fits in a computer's memory."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detrkit.backbones import Backbone, build_backbone
from detrkit.backbones.timm_networks import PREFIX as TIMM
from detrkit.checkpoints.blank import WithoutRandomValues
from detrkit.layers.attention import SLICED_FROM
from detrkit.layers.transformer import FeedForward
from detrkit.models.settings import Settings
from detrkit.structures import ImageBatch

# GB (10⁹ bytes) that a step's estimate may reach. 8 GB is the aim: the estimate is within a tenth of what benchmarks/memory.py measures in one
# step, and in later steps a heap with gaps took up to 0.9 GB more.
LIMIT = 6.5

# GB that Python and the libraries take without a model.
LIBRARIES = 0.95

# Objects of an image whose masks are computed; COCO's panoptic images have 11 on average, crowded ones three times as many.
MASK_OBJECTS = 16
# Images whose objects an image has that is put together of others.
MOSAIC_IMAGES = 4

# Factor for what the backward pass holds in addition to what the forward pass kept: gradients of activations, buffers of convolutions.
BACKWARD = 1.3


@dataclass(frozen=True)
class BackboneCost:
    """The memory that a backbone takes in training.

    Attributes:
        bytes_per_pixel: bytes of float32 activations that its forward pass keeps for the backward pass; a test counts them.
        parameters: number of parameters.
        stride: image pixels per cell of its coarsest level.
    """

    bytes_per_pixel: float
    parameters: float
    stride: int


BACKBONE_COSTS: dict[str, BackboneCost] = {
    "resnet18": BackboneCost(72, 11.2e6, 32),
    "resnet18-c4": BackboneCost(64, 2.8e6, 16),
    "resnet34": BackboneCost(140, 21.3e6, 32),
    "resnet34-c4": BackboneCost(128, 8.2e6, 16),
    "resnet50": BackboneCost(478, 23.5e6, 32),
    "resnet50-caffe": BackboneCost(436, 23.5e6, 32),
    "resnet50-c4": BackboneCost(436, 8.5e6, 16),
    "resnet50-dc5": BackboneCost(580, 23.5e6, 16),
    "resnet101": BackboneCost(886, 42.4e6, 32),
    "resnet101-caffe": BackboneCost(844, 42.4e6, 32),
    "resnet101-c4": BackboneCost(844, 27.5e6, 16),
    "resnet101-dc5": BackboneCost(988, 42.4e6, 16),
    "mobilenet_v2": BackboneCost(469, 2.2e6, 32),
    "compact": BackboneCost(95, 1.2e6, 32),
    "compact-c4": BackboneCost(90, 0.29e6, 16),
    "compact-c3": BackboneCost(90, 0.119e6, 8),
}
LARGEST = BACKBONE_COSTS["resnet101-dc5"]  # stands in for backbones that are not in the table
_COUNTED_SIDES = 64, 128  # pixels of the images with which the memory of a network of timm's is counted


def pieces(
    config: Settings,
    batch_size: int,
    height: int,
    width: int,
    *,
    processes: int = 1,
    more_queries: int = 0,
    mosaics: bool = False,
) -> int:
    """The least number of equal pieces whose estimate stays below `LIMIT`; the smallest pieces if even their estimate is higher.

    Args:
        config: a family's configuration.
        batch_size: images per optimizer step.
        height: pixels of the shorter side of a training image.
        width: pixels of its longer side.
        processes: number of processes that share each piece, with an image or more each.
        more_queries: see `step_memory`.
        mosaics: whether four images are put together to one.

    Returns:
        A divisor of `batch_size`.
    """
    counts = [count for count in range(1, batch_size + 1) if batch_size % count == 0]
    possible = [count for count in counts if batch_size // count >= processes] or [1]
    for count in possible:
        share = math.ceil(batch_size // count / processes)
        memory = step_memory(config, share, height, width, more_queries=more_queries, mosaics=mosaics)
        if memory <= LIMIT:
            return count
    return possible[-1]


def step_memory(
    config: Settings, images: int, height: int, width: int, *, more_queries: int = 0, mosaics: bool = False
) -> float:
    """Estimated peak of a process, in GB, during a training step with AdamW in float32 on a CPU.

    Args:
        config: a family's configuration.
        images: number of images that are processed at once.
        height: height of an image in pixels.
        width: width of an image in pixels.
        more_queries: queries that supervision adds in training to those that the configuration has.
        mosaics: whether four images are put together to one, which has the objects of all, and their masks.
    """
    objects = MASK_OBJECTS * (MOSAIC_IMAGES if mosaics else 1)
    # A batch with portrait and landscape images is padded to a square.
    pixels = height * width if images == 1 else max(height, width) ** 2
    backbone = _backbone_cost(config.backbone)
    tokens = sum(pixels / stride**2 for stride in _strides(config, backbone.stride))
    kept: float = images * (
        backbone.bytes_per_pixel * pixels
        + _transformer_bytes(config, tokens, more_queries)
        + _mask_bytes(config, pixels, objects)
    )
    if config.dropout > 0:
        kept += _map_bytes(config, tokens, images, more_queries)
    return LIBRARIES + (_parameter_bytes(config, backbone) + BACKWARD * kept) / 1e9


@functools.cache
def _backbone_cost(name: str) -> BackboneCost:
    if name.startswith(TIMM):
        with WithoutRandomValues():
            return count_cost(build_backbone(name))
    return BACKBONE_COSTS.get(name, LARGEST)


def count_cost(backbone: Backbone) -> BackboneCost:
    """The memory that a backbone takes, counted in two forward passes, whose difference has neither parameters nor what is made of them.

    Args:
        backbone: in training mode.
    """
    few, many = (_kept_bytes(backbone, side) for side in _COUNTED_SIDES)
    pixels = _COUNTED_SIDES[1] ** 2 - _COUNTED_SIDES[0] ** 2
    parameters = sum(each.numel() for each in backbone.parameters())
    return BackboneCost((many - few) / pixels, parameters, backbone.strides[-1])


def _kept_bytes(backbone: Backbone, side: int) -> int:
    """What the forward pass of one image keeps for the backward pass."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.random.fork_rng([]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        levels = backbone(
            ImageBatch(torch.zeros(1, 3, side, side))
        )  # holds the graph, so that no address is used twice
    sizes = sum(each.untyped_storage().nbytes() for each in kept.values())
    del levels
    return sizes


def _strides(config: Settings, coarsest: int) -> list[int]:
    """Image pixels per cell of every level that becomes tokens."""
    levels = config.token_levels
    from_backbone = 1 if levels == 1 else min(levels, 3)
    first = coarsest // 2 ** (from_backbone - 1)
    return [first * 2**level for level in range(levels)]


def _transformer_bytes(config: Settings, tokens: float, more_queries: int) -> float:
    """Bytes of the activations that encoder, decoder and proposals keep for one image."""
    width, hidden, queries = config.width, config.hidden, config.training_queries + more_queries
    # Input and output tokens, their sums with positions, projections, both norms and dropout masks: 10.5 D were counted, with deformable
    # attention 9 to 10.5 D. The hidden layer is added unless it is recomputed.
    encoded = config.encoded(tokens)
    encoder = encoded * (10.5 * width + (hidden if encoded < FeedForward.recompute_from else 0))
    # The decoder keeps the keys and values of memory and their inputs, and for every query two attentions and the feed-forward network.
    attended = config.attended(tokens)
    decoder = attended * 4 * width + queries * (16 * width + hidden)
    decoder += config.kept_maps * config.attention_heads * queries * attended
    if config.wide_heads:
        # What a head's query is made of, its codes, gates and products; and the keys, once more for each head.
        decoder += config.attention_heads * width * (14 * queries + attended)
    proposals = tokens * (8 * width + 8 * config.class_count) if config.proposes else 0.0
    layers = config.encoder_layers * encoder + config.decoder_layers * decoder
    return float(4 * (layers + (6 * width + config.kept_per_cell) * tokens + proposals))


def _mask_bytes(config: Settings, pixels: float, objects: int) -> float:
    """Bytes of the activations that the mask head keeps for one image with so many objects."""
    # What convolutions, norms and ReLU keep, in widths of the model by the area of a cell, at strides 32, 16, 8 and 4: 31 bytes per pixel and
    # object were counted at width 256.
    numbers = 3.06 / 32**2 + 1 / 16**2 + 0.5 / 8**2 + 0.25 / 4**2
    return float(4 * objects * config.mask_width * numbers * pixels)


def _map_bytes(config: Settings, tokens: float, images: int, more_queries: int) -> float:
    """Bytes of dense attention maps that are small enough to be kept (`SLICED_FROM`): weights before and after dropout, and the mask."""
    dense, queries = tokens if config.compares_all else 0.0, config.training_queries + more_queries
    maps = (
        (config.encoder_layers, dense * dense),
        (config.decoder_layers, queries * dense),
        (config.decoder_layers, queries**2),
    )
    counts = ((layers, images * config.attention_heads * weights) for layers, weights in maps)
    return float(sum(9 * layers * weights for layers, weights in counts if weights < SLICED_FROM))


def _parameter_bytes(config: Settings, backbone: BackboneCost) -> float:
    """Bytes of weights, their gradients and AdamW's two moments."""
    square, forward = config.width**2, 2 * config.width * config.hidden
    transformer = config.encoder_layers * (4 * square + forward) + config.decoder_layers * (8 * square + forward)
    return float(16 * (backbone.parameters + transformer))
