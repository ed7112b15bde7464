"""Why a model found what it found: what each layer said of a query and where it looked, and what the encoder's tokens at a place looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detrkit.data.wording import counted
from detrkit.errors import ConfigurationError, OptionError
from detrkit.explaining.attention import Look, SampledLook
from detrkit.explaining.geometry import Places, as_floats, corners_in_pixels, cropped_maps, in_pixels, tokens_at
from detrkit.explaining.recording import Recording, cell_in_pixels, has_encoder_attention, place_in_pixels, record
from detrkit.explaining.records import (
    ExplainedPlace,
    ExplainedQuery,
    ExplainedToken,
    Explanation,
    Floats,
    LayerLook,
    LayerPrediction,
    Maps,
    Points,
    SalientPoints,
    Start,
)
from detrkit.layers.regions_of_interest import RegionOutput
from detrkit.models.detector import Detector
from detrkit.models.sam_detr import AlignedAttention
from detrkit.prediction.predictor import Predictor
from detrkit.prediction.streaming import Picture
from detrkit.structures import Memory

BEST = 3  # detections that are explained where nothing else is asked for


def explain(
    model: Detector | nn.Module | str | Path | Predictor,
    image: Picture,
    *,
    detection: int | None = None,
    query: int | None = None,
    at: tuple[float, float] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Explanation:
    """Where a model looked for what it found in a picture, and what each of its layers said.

    All numbers begin with 0. Nothing is changed in the model, and nothing of it is recorded afterwards.

    Args:
        model: as for a `Predictor`, or a predictor, whose thresholds then say what it reports.
        image: one picture, as a predictor takes it.
        detection: number of a detection in the order of scores, 0 for the best, among all that the model selects, whatever the threshold.
        query: number of a query, whether or not it found something; of a two-stage model the rank of its proposal.
        at: x and y of a place in pixels of the picture: what the encoder's tokens there looked at. Without these three, the best three of the
            reported detections are explained, or the best of all where none is reported.
        layers: which decoder layers (with `at`, encoder layers) are shown; None shows all.
        heads: which heads are shown; None shows all.

    Raises:
        ConfigurationError: there is no such detection, query, layer or head, the place lies outside of the picture, the model has no attention in
            its encoder, or more than one of them was asked for.
        DataError: the picture cannot be read.
        NonFiniteError: the model produces NaN or infinity.
    """
    asked = [name for name, value in (("detection", detection), ("query", query), ("at", at)) if value is not None]
    if len(asked) > 1:
        raise OptionError(f"{' and '.join(asked)} exclude each other: give one of them", *asked)
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    prepared = predictor.prepare(image)
    if at is not None:
        _check_encoder(predictor.model)
        _check_inside(at, prepared.picture.size)
    fractions = None if at is None else (at[0] / prepared.picture.width, at[1] / prepared.picture.height)
    seen = record(predictor, prepared, at=fractions)
    if at is not None:
        place = explained_place(seen, at, layers=layers, heads=heads)
        return Explanation(seen.model.card.variant, seen.categories, seen.picture, place=place)
    explained = _asked_queries(seen, detection, query)
    queries = tuple(explained_query(seen, *each, layers=layers, heads=heads) for each in explained)
    return Explanation(seen.model.card.variant, seen.categories, seen.picture, queries)


def _asked_queries(seen: Recording, detection: int | None, query: int | None) -> list[tuple[int, int | None]]:
    """The queries that are explained, each with the number of its detection."""
    if query is not None:
        if not 0 <= query < seen.queries:
            raise OptionError(f"query must be from 0 to {seen.queries - 1}, not {query}", "query")
        return [(query, None)]
    found = seen.detections.queries.tolist()
    if detection is not None:
        if not found:
            raise OptionError(
                f"detection {detection} is not there, since the model finds nothing here: ask for a query, from 0 to {seen.queries - 1}",
                "detection",
            )
        if not 0 <= detection < len(found):
            raise OptionError(
                f"detection must be from 0 (the best) to {len(found) - 1} in this picture, not {detection}", "detection"
            )
        return [(found[detection], detection)]
    numbers = seen.reported[:BEST] or tuple(range(len(found)))[:1]
    return [(found[number], number) for number in numbers]


def explained_query(
    seen: Recording,
    query: int,
    detection: int | None = None,
    *,
    label: int | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> ExplainedQuery:
    """What each layer said of a query, and where it looked.

    Args:
        seen: what the model did.
        query: its number.
        detection: number of the detection that comes from it.
        label: place of the category that is explained; by default that of the detection, or the best one.
        layers: as for `explain`.
        heads: as for `explain`.
    """
    if detection is not None:
        index = int(seen.detections.labels[detection])
        label = next(place for place, category in enumerate(seen.categories) if category.index == index)
    if label is None:
        label = int(seen.scores[-1, query].argmax())
    boxes_xyxy = seen.boxes_xyxy(label)[:, query]  # (L, 4)
    predictions = tuple(_prediction(seen, query, layer, box) for layer, box in enumerate(boxes_xyxy))
    box_xyxy = boxes_xyxy[-1] if detection is None else as_floats(seen.detections.boxes_xyxy[detection])
    return ExplainedQuery(
        query=query,
        detection=detection,
        label=label,
        score=float(predictions[-1].scores[label]),
        box_xyxy=box_xyxy,
        predictions=predictions,
        looked_in=seen.looked_in,
        looks=_looks_of_query(seen, query, layers, heads),
        start=_start(seen, query),
    )


def _prediction(seen: Recording, query: int, layer: int, box_xyxy: Floats) -> LayerPrediction:
    scores = as_floats(seen.scores[layer, query])
    references = getattr(getattr(seen.stages, "decoded", None), "references", ())
    reference = None
    if references:
        own = references[layer][0, query]
        reference = in_pixels(own, seen.size) if own.shape[-1] == 2 else corners_in_pixels(own, seen.size)
    return LayerPrediction(layer, scores, int(np.argmax(scores)), box_xyxy, reference)


def _looks_of_query(
    seen: Recording, query: int, layers: Sequence[int] | None, heads: Sequence[int] | None
) -> tuple[LayerLook, ...]:
    """Where the chosen heads of the chosen layers looked for a query; of models without a decoder, what its token looked at."""
    looks: Sequence[Look | None] = seen.cross if seen.looked_in == "decoder" else seen.encoder
    if not looks and seen.aligned:
        looks = [None] * len(seen.aligned)
    head_count = _head_count(looks[0]) if looks and looks[0] is not None else _salient_heads(seen)
    chosen_layers = _chosen(layers, len(looks), "layers", f"the {seen.looked_in}")
    chosen_heads = _chosen(heads, head_count, "heads", "its attention")
    return tuple(
        LayerLook(
            layer,
            chosen_heads,
            None if (look := looks[layer]) is None else _seen_by(seen, look, query, chosen_heads),
            _gaussians(seen, layer, looks[layer], query, chosen_heads),
            _salient(seen, layer, query, chosen_heads),
        )
        for layer in chosen_layers
    )


def _seen_by(seen: Recording, look: Look, row: int, heads: tuple[int, ...]) -> Maps | Points:
    """Cells or points that some heads looked at for one query or token."""
    if isinstance(look, SampledLook):
        chosen = list(heads)
        points, weights = look.points()[0, row, chosen], look.weights[0, row, chosen]  # (M, levels, points, ...)
        levels = np.repeat(np.arange(points.shape[1]), points.shape[2])
        return Points(in_pixels(points.flatten(1, 2), seen.size), as_floats(weights.flatten(1)), levels)
    weights = look.weights[0, list(heads), row]  # (M, S)
    if look.memory is None:
        places = seen.chosen
        assert places is not None
        xy = np.repeat(in_pixels(places.xy, seen.size)[None], len(heads), axis=0)
        return Points(xy, as_floats(weights), None if places.levels is None else places.levels.numpy())
    return cropped_maps(weights, look.memory, _level_numbers(seen, look.memory))


def _level_numbers(seen: Recording, memory: Memory) -> tuple[int, ...]:
    """The numbers of the levels that a layer was given: all, or a single one of several (SAM-DETR)."""
    whole: Memory = seen.stages.memory
    if len(memory.level_sizes) > 1 or len(whole.level_sizes) == 1:
        return tuple(range(len(memory.level_sizes)))
    return (whole.level_sizes.index(memory.level_sizes[0]),)


def _gaussians(seen: Recording, layer: int, look: Look | None, query: int, heads: tuple[int, ...]) -> Maps | None:
    if seen.aligned and look is not None and look.memory is not None:
        memory: Memory = look.memory  # of the one level that this layer sees
        logarithms: Any = AlignedAttention.gaussian(seen.aligned[layer], memory)
    elif seen.gaussians:
        memory, logarithms = seen.stages.memory, seen.gaussians[layer]
    else:
        return None
    if logarithms is None:
        return None
    levels = logarithms if isinstance(logarithms, Sequence) else [logarithms]
    chosen = [each[0, list(heads), query] for each in levels]  # (M, h · w) each
    weights = [each.sub(each.amax(-1, keepdim=True)).exp() for each in chosen]
    return cropped_maps(torch.cat(weights, dim=-1), memory, _level_numbers(seen, memory))


def _salient(seen: Recording, layer: int, query: int, heads: tuple[int, ...]) -> SalientPoints | None:
    if not seen.aligned:
        return None
    aligned, chosen = seen.aligned[layer], list(heads)
    scales = None if aligned.scales is None else as_floats(aligned.scales[0, query, chosen])
    return SalientPoints(in_pixels(aligned.points[0, query, chosen], seen.size), scales)


def _start(seen: Recording, query: int) -> Start | None:
    """The token that a query comes from, if it comes from one."""
    if seen.chosen is not None:
        xy, level = place_in_pixels(seen.chosen, query, seen.size)
        return Start(query, level, xy, _region(seen, query), cell_in_pixels(seen.chosen, query, seen.size))
    queries = getattr(seen.stages, "queries", None)
    if queries is None or queries.proposals is None or queries.proposals.rows is None:
        return None
    token = int(queries.proposals.rows[0, query])
    places = Places.of_memory(seen.stages.memory)
    xy, level = place_in_pixels(places, token, seen.size)
    box_xyxy = corners_in_pixels(queries.references[0, query], seen.size)
    return Start(token, level, xy, box_xyxy, cell_in_pixels(places, token, seen.size))


def _region(seen: Recording, query: int) -> Any:
    """(4,) the region of TSP-RCNN that became a query."""
    if not isinstance(seen.output, RegionOutput) or seen.output.regions is None:
        return None
    regions = seen.output.regions
    corners = regions.boxes_xyxy[0, query] / regions.image_sizes[0].repeat(2)
    return in_pixels(corners.reshape(2, 2), seen.size).reshape(4)


def explained_place(
    seen: Recording,
    at: tuple[float, float],
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> ExplainedPlace:
    """What the encoder's tokens at a place looked at: of every level, or of TSP the nearest one of every level.

    Args:
        seen: what the model did, recorded for this place.
        at: x and y in pixels.
        layers: as for `explain`.
        heads: as for `explain`.
    """
    first = seen.encoder[0]
    chosen_layers = _chosen(layers, len(seen.encoder), "layers", "the encoder")
    chosen_heads = _chosen(heads, _head_count(first), "heads", "its attention")
    if first.memory is not None:
        fractions = (at[0] / seen.size[0], at[1] / seen.size[1])
        places, tokens = Places.of_memory(first.memory), tokens_at(first.memory, fractions)
        rows = list(range(len(tokens)))  # only these were recorded
    else:
        assert seen.chosen is not None
        places = seen.chosen
        tokens = rows = _nearest(places, at, seen.size)
    explained = []
    for token, row in zip(tokens, rows, strict=True):
        xy, level = place_in_pixels(places, token, seen.size)
        looks = tuple(
            LayerLook(layer, chosen_heads, _seen_by(seen, seen.encoder[layer], row, chosen_heads))
            for layer in chosen_layers
        )
        explained.append(ExplainedToken(token, level, xy, looks))
    return ExplainedPlace(at, tuple(explained))


def _nearest(places: Places, at: tuple[float, float], size: tuple[int, int]) -> list[int]:
    """The tokens that are nearest to a place, one of each level that has any."""
    distances = np.linalg.norm(in_pixels(places.xy, size) - np.array(at), axis=-1)
    levels = np.zeros(len(distances)) if places.levels is None else places.levels.numpy()
    return [int(np.argmin(np.where(levels == level, distances, np.inf))) for level in np.unique(levels)]


def _head_count(look: Look) -> int:
    return look.weights.shape[2 if isinstance(look, SampledLook) else 1]


def _salient_heads(seen: Recording) -> int:
    return seen.aligned[0].points.shape[2] if seen.aligned else 0


def _chosen(asked: Sequence[int] | None, count: int, option: str, what: str) -> tuple[int, ...]:
    """The numbers that were asked for, all by default."""
    numbers = tuple(range(count)) if asked is None else tuple(dict.fromkeys(asked))
    if not numbers and asked is not None:
        raise OptionError(f"{option} names none: leave it out for all of them", option)
    for number in numbers:
        if count == 0:
            raise OptionError(f"{option} names {number}, and {what} has none: leave it out", option)
        if not 0 <= number < count:
            raise OptionError(f"{option} must be from 0 to {count - 1}, those of {what}, not {number}", option)
    return numbers


def _check_inside(at: tuple[float, float], size: tuple[int, int]) -> None:
    if not all(0 <= place < side for place, side in zip(at, size, strict=True)):
        width, height = size
        raise OptionError(
            f"at must lie in the picture, which is {width} × {height} pixels, and {at[0]:g},{at[1]:g} does not", "at"
        )


def _check_encoder(model: Detector) -> None:
    """Refuses a place where no token looks at others."""
    if has_encoder_attention(model):
        return
    layers = counted(len(getattr(model.encoder, "layers", ())), "layer")
    kind = "no layers" if layers.startswith("0 ") else f"{layers} of convolutions, which have no weights to show"
    instead = "and look at what its decoder's queries attended to"
    if not hasattr(model, "decoder"):
        instead = "since nothing in this model attends to anything"
    raise ConfigurationError(f"the encoder of a {model.card.variant} has {kind}: leave the place out, {instead}")
