"""What an explanation holds: plain numbers and numpy arrays, all places in pixels of the original picture; nothing here draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detrkit.cards import Category
from detrkit.errors import ConfigurationError

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Maps:
    """How much each head looked at the cells of levels, without those behind the image's padding.

    The h · w cells of a level divide the picture evenly, as the models' position codes and references do: cell (row, column) of a picture W wide and
    H high lies from column · W / w to (column + 1) · W / w, and from row · H / h to (row + 1) · H / h.

    Attributes:
        levels: numbers of the levels, 0 for the finest.
        weights: for each of these levels (M, h, w); what a head gives to all levels sums to 1.
    """

    levels: tuple[int, ...]
    weights: tuple[Floats, ...]


@dataclass(frozen=True, eq=False)
class Points:
    """Points that each head looked at: those that it sampled, or the places of the tokens that it compared.

    Attributes:
        xy: (M, N, 2) in pixels; sampled points may lie outside of the picture.
        weights: (M, N); those of a head sum to 1.
        levels: (N,) number of the level of each point, 0 for the finest; None where points belong to no level.
    """

    xy: Floats
    weights: Floats
    levels: Numbers | None


@dataclass(frozen=True, eq=False)
class SalientPoints:
    """The point in its box from which each head of SAM-DETR took a query's content.

    Attributes:
        xy: (M, 2) in pixels.
        scales: (M, 2) how fast the Gaussian falls along x and y, per cell of the layer's level; None without one.
    """

    xy: Floats
    scales: Floats | None


@dataclass(frozen=True, eq=False)
class LayerLook:
    """Where one layer looked.

    Attributes:
        layer: its number, from 0.
        heads: numbers of the M heads that are shown, from 0.
        seen: cells or points; None where a layer looks at nothing but salient points.
        gaussians: of SMCA-DETR, and of SAM-DETR with SMCA, how much each head favours the cells before it compares contents; 1 where it favours them most.
        salient: of SAM-DETR.
    """

    layer: int
    heads: tuple[int, ...]
    seen: Maps | Points | None
    gaussians: Maps | None = None
    salient: SalientPoints | None = None

    @property
    def maps(self) -> Maps:
        """The cells.

        Raises:
            ConfigurationError: this layer looks at points.
        """
        if isinstance(self.seen, Maps):
            return self.seen
        raise ConfigurationError(f"layer {self.layer} weighs no cells: it has {self._instead()}")

    @property
    def points(self) -> Points:
        """The points.

        Raises:
            ConfigurationError: this layer looks at cells.
        """
        if isinstance(self.seen, Points):
            return self.seen
        raise ConfigurationError(f"layer {self.layer} samples no points: it has {self._instead()}")

    def _instead(self) -> str:
        if self.seen is None:
            return "salient points (`salient`)"
        return "weights of cells (`maps`)" if isinstance(self.seen, Maps) else "points with weights (`points`)"


@dataclass(frozen=True, eq=False)
class LayerPrediction:
    """What one layer said of a query.

    Attributes:
        layer: its number, from 0.
        scores: (K,) in [0, 1], of each category of the explanation.
        label: place of the category with the highest score.
        box_xyxy: (4,) in pixels; of TSP-RCNN, which has a box for each category, that of the one that is explained.
        reference: where the layer looked: (2,) a point, or (4,) the corners of a box, in pixels; None for papers without references.
    """

    layer: int
    scores: Floats
    label: int
    box_xyxy: Floats
    reference: Floats | None


@dataclass(frozen=True, eq=False)
class Start:
    """The token that a query of a two-stage model started from, or that it is.

    Attributes:
        token: its row among the tokens of all levels; of TSP-RCNN its place among the proposed regions.
        level: the number of its level, 0 for the finest; None for regions.
        xy: (2,) its centre in pixels.
        box_xyxy: (4,) the box that it proposed, in pixels; None for TSP-FCOS, whose features propose none.
        cell_xyxy: (4,) the cell of its level that it is, in pixels; None for regions.
    """

    token: int
    level: int | None
    xy: Floats
    box_xyxy: Floats | None
    cell_xyxy: Floats | None = None


@dataclass(frozen=True, eq=False)
class ExplainedQuery:
    """One query: what it found, what each layer said, and where it looked.

    Attributes:
        query: its number, from 0.
        detection: number of the detection among all that the model selects, 0 for the best; None for a query that was asked for as such.
        label: place of the category that is explained.
        score: its score in the last layer.
        box_xyxy: (4,) the last box, in pixels.
        predictions: of each decoder layer, first to last; of models without a decoder the only one.
        looked_in: "decoder", or "encoder" for models without a decoder, in which the looks are those of the query's own token.
        looks: of the layers that were asked for.
        start: where a two-stage model's query started.
    """

    query: int
    detection: int | None
    label: int
    score: float
    box_xyxy: Floats
    predictions: tuple[LayerPrediction, ...]
    looked_in: str
    looks: tuple[LayerLook, ...]
    start: Start | None = None


@dataclass(frozen=True, eq=False)
class ExplainedToken:
    """An encoder's token at a place, and what it looked at.

    Attributes:
        token: its row among the tokens of all levels; of TSP its place among the chosen features or regions.
        level: the number of its level; None for regions.
        xy: (2,) its centre in pixels.
        looks: of the encoder layers that were asked for.
    """

    token: int
    level: int | None
    xy: Floats
    looks: tuple[LayerLook, ...]


@dataclass(frozen=True, eq=False)
class ExplainedPlace:
    """A place of the picture.

    Attributes:
        xy: x and y in pixels.
        tokens: that of each level, finest first.
    """

    xy: tuple[float, float]
    tokens: tuple[ExplainedToken, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Why a model found what it found in a picture.

    Attributes:
        variant: the model's name in the catalog.
        categories: the classes that labels and scores refer to by their places.
        picture: the original, in RGB.
        queries: the detections or the query that were asked for.
        place: the place that was asked for.
    """

    variant: str
    categories: tuple[Category, ...]
    picture: Image.Image
    queries: tuple[ExplainedQuery, ...] = ()
    place: ExplainedPlace | None = None

    def __repr__(self) -> str:
        width, height = self.picture.size
        place = "" if self.place is None else f", place {self.place.xy[0]:g}, {self.place.xy[1]:g}"
        return f"<Explanation of a {self.variant} in {width} × {height} pixels: queries {[each.query for each in self.queries]}{place}>"
