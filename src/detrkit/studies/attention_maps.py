"""Where learned queries, points and boxes look by their position alone (Liu et al. 2022, DAB-DETR, arXiv:2201.12329, section 3 and figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from detrkit.evaluation.runner import loader_of
from detrkit.layers.attention import MultiHeadAttention, split_heads
from detrkit.models.catalog import selection_for
from detrkit.models.conditional_detr import CrossAttention
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.structures import ImageBatch
from detrkit.studies.parts import decoder_layers
from detrkit.studies.process import detector_of
from detrkit.studies.setting import WATCHED, anchored, dense
from detrkit.studies.study import PLAIN_COLUMNS, Figures, Results, Study, Trial, further
from detrkit.training.ground_truth import RunData

MODES, SPREAD, FOLLOWS = "modes", "spread", "follows size"
_SIDE = 32  # of a map, in cells: codes can be computed for any grid
_IMAGES = 50
_HIGH = 0.5  # of the highest value, from which on a local maximum counts
_SHOWN = 5


@torch.no_grad()
def maps_of(model: EncoderDecoder, batch: ImageBatch) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Attention of the last decoder layer by position alone, a mean over heads.

    Args:
        model: DETR, Conditional DETR or DAB-DETR, in eval mode.
        batch: images that are not padded.

    Returns:
        (B, Q, side, side) maps that sum to 1; (B, Q, 4) the boxes cxcywh; the queries of each image that found something, the best first.
    """
    attention: nn.Module = decoder_layers(model)[-1].cross_attention
    seen: list[Any] = []
    handle = attention.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    stages = model.stages(batch)
    handle.remove()
    width = stages.queries.content.shape[-1]
    encoding = model.get_submodule("neck.position_encoding")
    grid = encoding(torch.zeros(1, width, _SIDE, _SIDE), None)
    codes = grid.flatten(2).transpose(1, 2)  # (1, cells, D)
    if isinstance(attention, CrossAttention):
        spatial = seen[0][2]
        heads, scale = attention.attention_heads, (2 * width / attention.attention_heads) ** -0.5
        query, key = attention.spatial_query(spatial), attention.spatial_key(codes)
        weights = (scale * split_heads(query, heads) @ split_heads(key, heads).transpose(-1, -2)).softmax(-1)
    else:
        assert isinstance(attention, MultiHeadAttention)
        weights = attention.weights(stages.queries.position, codes, codes)
    maps = weights.mean(1).unflatten(-1, (_SIDE, _SIDE))
    found = selection_for(model)(stages.output, batch.image_sizes().flip(-1))
    best = [list(dict.fromkeys(detections.queries.tolist())) for detections in found]
    return maps, stages.output.boxes_cxcywh[-1], best


def look(model: Detector, data: RunData) -> Figures:
    """How many modes these maps have, how wide they are, and whether they are wider where boxes are larger.

    Args:
        model: after training.
        data: of which some validation images are shown to it.

    Returns:
        Of as many of the best queries of an image as it has objects: `modes`, local maxima of at least half of the highest; `spread`, the distance from
        the centre as a root mean square, as a share of the image; `follows size`, the rank correlation of that with the boxes' diagonal.
    """
    assert isinstance(model, EncoderDecoder)
    if data.validation is None:
        return {}
    modes, spreads, diagonals = [], [], []
    images = range(min(_IMAGES, len(data.validation)))
    for batch, (target,) in loader_of(model, data.validation, batch_size=1, workers=0, images=images):
        (maps,), (boxes,), (found,) = maps_of(model, batch)
        best = found[: len(target.labels)]
        modes.append(modes_of(maps[best]))
        spreads.append(spread_of(maps[best]))
        diagonals.append(boxes[best, 2:].norm(dim=-1))
    spread, diagonal = torch.cat(spreads), torch.cat(diagonals)
    return {
        MODES: float(torch.cat(modes).float().mean()),
        SPREAD: float(spread.mean()),
        FOLLOWS: float(spearmanr(spread.numpy(), diagonal.numpy()).statistic),
    }


def modes_of(maps: Tensor) -> Tensor:
    """(N,) how many local maxima (N, h, w) maps have that reach half of the highest value."""
    highest = maps.flatten(1).amax(1)[:, None, None]
    is_peak = (maps == max_pool2d(maps[:, None], 3, stride=1, padding=1)[:, 0]) & (maps >= _HIGH * highest)
    return is_peak.sum((1, 2))


def spread_of(maps: Tensor) -> Tensor:
    """(N,) the root mean square of the distance from the centre of mass, as a share of the side, of (N, h, w) maps that sum to 1."""
    height, width = maps.shape[1:]
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    of_rows, of_columns = maps.sum(2), maps.sum(1)  # (N, h), (N, w)
    return (_variance(of_rows, rows) + _variance(of_columns, columns)).sqrt()


def _variance(masses: Tensor, places: Tensor) -> Tensor:
    """(N,) of places (n,) with masses (N, n)."""
    center = (masses * places).sum(1, keepdim=True)
    return (masses * (places - center) ** 2).sum(1)


def draw(results: Results, folders: Mapping[tuple[str, int], Path], target: Path) -> None:
    """Maps of the best queries in one validation image, one row for each detector; the boxes that the queries find."""
    figure = Figure(figsize=(2.1 * _SHOWN, 2.3 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), _SHOWN, squeeze=False)
    for row, name in enumerate(results):
        model, data = detector_of(folders[name, 0])
        assert isinstance(model, EncoderDecoder)
        assert data.validation is not None
        image = int(np.diff(data.validation.offsets).argmax())  # the first with most objects
        ((batch, _),) = loader_of(model, data.validation, batch_size=1, workers=0, images=[image])
        maps, boxes, found = maps_of(model, batch)
        # A code belongs to the last edge of its cell, and the model's own cells are larger than those of the map.
        moved = (model.coarsest_stride / batch.pixels.shape[-1] - 1 / _SIDE) / 2
        for column, query in enumerate(found[0][:_SHOWN]):
            panel = axes[row, column]
            panel.imshow(maps[0, query], extent=(-moved, 1 - moved, 1 - moved, -moved), cmap="magma")
            x, y, width, height = boxes[0, query].tolist()
            panel.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, fill=False, edgecolor="white"))
            panel.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0))
        axes[row, 0].set_ylabel(name)
    figure.savefig(target / "attention_maps.png", dpi=110, facecolor="white")


STUDY = Study(
    title="Where queries look by their position alone",
    claim="Learned queries have several modes, points one of a fixed size, and boxes one of the box's size (DAB-DETR, figure 2).",
    trials={
        "DETR (learned queries)": Trial("detr-compact", dense(), measure=look),
        "Conditional DETR (points)": Trial("conditional-detr-compact", dense(), measure=look),
        "DAB-DETR (boxes)": Trial("dab-detr-compact", anchored(), measure=look),
    },
    options={**WATCHED, "epochs": 4},
    columns=(*PLAIN_COLUMNS, further(MODES, digits=2), further(SPREAD), further(FOLLOWS, digits=2)),
    draw=draw,
    single_class=True,
)
