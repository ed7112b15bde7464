"""Explanations of every kind of model: values, places in pixels, choices and errors."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from explaining.small_explained import COMPACT, picture, small_model
from torch import Tensor, nn

import detrkit
from detrkit.errors import ConfigurationError, OptionError
from detrkit.explaining import explain
from detrkit.explaining.attention import CROSS, layers_of
from detrkit.explaining.records import Maps, Points

THIN = (416, 40)  # resized to 208 × 20 pixels and padded to a height of 64
WITHOUT_MAPS = ("deformable", "dino", "light", "tsp")


@pytest.mark.parametrize("variant", COMPACT)
def test_the_last_layer_is_what_the_predictor_finds(variant: str) -> None:
    predictor = detrkit.Predictor(small_model(variant), threshold=0.0)
    image = picture()
    raw = predictor.raw([image])[0]
    assert raw.confidence is not None
    for number in (0, 3):
        query = explain(predictor, image, detection=number).queries[0]
        assert query.detection == number
        assert query.score == pytest.approx(raw.confidence[number], abs=1e-6)
        np.testing.assert_allclose(query.box_xyxy, raw.xyxy[number], atol=1e-3)
        assert query.predictions[-1].scores[query.label] == pytest.approx(query.score)
        if not variant.startswith("tsp"):  # whose boxes are cut off at the picture
            np.testing.assert_allclose(query.predictions[-1].box_xyxy, raw.xyxy[number], atol=1e-3)
    explained = explain(predictor, image)
    assert [each.detection for each in explained.queries] == [0, 1, 2]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in predictor.model.modules())


@pytest.mark.parametrize("size", [(200, 120), THIN])
@pytest.mark.parametrize("variant", COMPACT)
def test_every_head_shares_out_one_over_the_picture_without_padding(variant: str, size: tuple[int, int]) -> None:
    model = small_model(variant)
    query = explain(model, picture(*size), query=0).queries[0]
    layers = model.card.config["decoder_layers"] or model.card.config["encoder_layers"]
    assert [look.layer for look in query.looks] == list(range(layers))
    assert query.looked_in == ("encoder" if variant.startswith("tsp") else "decoder")
    heads = model.card.config["attention_heads"]
    for look in query.looks:
        if variant == "sam-detr-compact-without-cross-attention":
            assert look.seen is None
            assert look.salient is not None
            assert look.salient.xy.shape == (heads, 2)
            continue
        if isinstance(look.seen, Points):
            assert any(name in variant for name in WITHOUT_MAPS)
            totals = look.points.weights.sum(-1)
        else:
            assert not any(name in variant for name in WITHOUT_MAPS)
            totals = sum((each.sum((1, 2)) for each in look.maps.weights), np.zeros(heads))
            rows, columns = look.maps.weights[0].shape[1:]
            assert (rows, columns) in (((1, 7), (2, 13)) if size == THIN else ((4, 7), (8, 13)))
        assert totals.shape == (heads,)
        np.testing.assert_allclose(totals, 1.0, rtol=1e-5)


def test_a_peak_of_dense_attention_lies_where_its_cell_lies() -> None:
    """The cell in row 1 and column 4 of 2 × 13 that are no padding, among 4 × 13."""
    model = small_model("detr-compact", backbone="compact-c4")
    attention = layers_of(model, CROSS)[1]

    def one_cell(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        weights = torch.zeros(1, 8, query.shape[1], key.shape[1])
        weights[..., 1 * 13 + 4] = 1.0
        return weights

    attention.weights = one_cell  # type: ignore[assignment]
    maps = explain(model, picture(*THIN), query=3).queries[0].looks[1].maps
    assert maps.levels == (0,)
    assert maps.weights[0].shape == (8, 2, 13)
    assert np.unravel_index(maps.weights[0][5].argmax(), (2, 13)) == (1, 4)
    assert maps.weights[0][5].sum() == 1.0


@pytest.mark.parametrize("size", [(200, 120), THIN])
def test_sampled_points_without_offsets_lie_at_the_reference(size: tuple[int, int]) -> None:
    model = small_model("deformable-detr-compact")
    source: Any = model.query_source
    nn.init.zeros_(source.reference_points.weight)
    with torch.no_grad():
        source.reference_points.bias.copy_(torch.tensor([0.25, 0.75]).logit())
    attention: Any = layers_of(model, CROSS)[0]
    for values in (attention.offsets.weight, attention.offsets.bias):
        nn.init.zeros_(values)
    query = explain(model, picture(*size), query=1).queries[0]
    width, height = size
    np.testing.assert_allclose(query.predictions[0].reference, (0.25 * width, 0.75 * height), rtol=1e-5)
    points = query.looks[0].points
    assert points.xy.shape == (8, 12, 2)
    np.testing.assert_allclose(points.xy, np.broadcast_to((0.25 * width, 0.75 * height), (8, 12, 2)), rtol=1e-4)
    assert points.levels is not None
    assert points.levels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("variant", ["deformable-detr-compact-two-stage", "dino-compact", "light-detr-compact", "h-deformable-detr-compact"])  # fmt: skip
def test_queries_of_two_stages_start_from_a_token(variant: str) -> None:
    query = explain(small_model(variant), picture(), query=2).queries[0]
    assert query.start is not None
    assert query.start.box_xyxy is not None
    np.testing.assert_allclose(query.start.box_xyxy, query.predictions[0].reference, atol=1e-3)
    counts = np.array([16 * 26, 8 * 13, 4 * 7])
    assert query.start.level == int(np.searchsorted(counts.cumsum(), query.start.token, side="right"))
    before = int(counts[: query.start.level].sum())
    rows, columns = [(16, 26), (8, 13), (4, 7)][query.start.level or 0]
    row, column = divmod(query.start.token - before, columns)
    np.testing.assert_allclose(query.start.xy, ((column + 0.5) * 200 / columns, (row + 0.5) * 120 / rows), rtol=1e-5)
    wide, high = 200 / columns, 120 / rows
    assert query.start.cell_xyxy is not None
    corners = (column * wide, row * high, (column + 1) * wide, (row + 1) * high)
    np.testing.assert_allclose(query.start.cell_xyxy, corners, atol=1e-3)


@pytest.mark.parametrize(
    "variant", ["dab-detr-compact", "dab-deformable-detr-compact", "dino-compact", "sam-detr-compact"]
)
def test_references_are_the_boxes_of_the_layer_before(variant: str) -> None:
    predictions = explain(small_model(variant), picture(), query=2).queries[0].predictions
    assert predictions[1].reference is not None
    assert predictions[1].reference.shape == (4,)
    if variant != "dino-compact":  # whose boxes come from another norm than its references
        np.testing.assert_allclose(predictions[1].reference, predictions[0].box_xyxy, atol=0.01)


def test_models_with_points_stay_at_them_and_detr_has_none() -> None:
    for variant in ("conditional-detr-compact", "anchor-detr-compact", "smca-detr-compact"):
        first, last = explain(small_model(variant), picture(), query=2).queries[0].predictions
        assert first.reference is not None
        assert first.reference.shape == (2,)
        np.testing.assert_array_equal(first.reference, last.reference)
    assert explain(small_model("detr-compact"), picture(), query=2).queries[0].predictions[0].reference is None


def test_gaussians_and_salient_points() -> None:
    for variant, levels in (("smca-detr-compact", 1), ("smca-detr-compact-multiscale", 3)):
        look = explain(small_model(variant), picture(), query=2).queries[0].looks[0]
        assert look.gaussians is not None
        assert look.gaussians.levels == tuple(range(levels))
        for gaussian, weights in zip(look.gaussians.weights, look.maps.weights, strict=True):
            assert gaussian.shape == weights.shape
            np.testing.assert_allclose(gaussian.max((1, 2)), 1.0, rtol=1e-6)
    query = explain(small_model("sam-detr-compact"), picture(), query=2).queries[0]
    salient, region = query.looks[1].salient, query.predictions[1].reference
    assert salient is not None
    assert region is not None
    assert (salient.xy >= region[:2] - 1e-3).all()  # in its box
    assert (salient.xy <= region[2:] + 1e-3).all()


def test_gaussians_of_sam_detr_are_highest_at_its_salient_points() -> None:
    sizes = {"width": 64, "hidden": 64, "decoder_layers": 3, "queries": 5}
    model = small_model("sam-detr-r50-multiscale-smca", **sizes)
    looks = explain(model, picture(), query=1).queries[0].looks
    for look in looks:
        assert look.gaussians is not None
        assert look.salient is not None
        assert look.salient.scales is not None
        assert look.gaussians.levels == look.maps.levels
        (gaussians,), (weights,) = look.gaussians.weights, look.maps.weights
        assert gaussians.shape == weights.shape
        rows, columns = gaussians.shape[1:]
        for head, (x, y) in enumerate(look.salient.xy):
            row, column = divmod(int(gaussians[head].argmax()), columns)
            assert gaussians[head, row, column] == 1
            assert abs((column + 0.5) * 200 / columns - x) <= 100 / columns + 1e-2
            assert abs((row + 0.5) * 120 / rows - y) <= 60 / rows + 1e-2
            # The distances that make half of SMCA's equation: one cell to the side is lower by the scale's square / 8.
            side = column + (1 if column + 1 < columns else -1)
            place = x * columns / 200 - 0.5
            expected = ((column - place) ** 2 - (side - place) ** 2) * look.salient.scales[head, 0] ** 2 / 8
            assert np.log(gaussians[head, row, side]) == pytest.approx(expected, abs=1e-3)
    assert explain(small_model("sam-detr-compact"), picture(), query=1).queries[0].looks[0].gaussians is None


def test_a_layer_that_looks_at_one_of_several_levels_says_which() -> None:
    sizes = {"width": 64, "hidden": 64, "decoder_layers": 3, "queries": 5}
    model = small_model("sam-detr-r50-multiscale", **sizes)
    looks = explain(model, picture(), query=1).queries[0].looks
    assert [look.maps.levels for look in looks] == [(2,), (1,), (0,)]
    assert [look.maps.weights[0].shape for look in looks] == [(8, 4, 7), (8, 8, 13), (8, 16, 26)]


@pytest.mark.parametrize("variant", ["tsp-fcos-compact", "tsp-rcnn-compact"])
def test_without_a_decoder_the_own_token_is_explained(variant: str) -> None:
    query = explain(small_model(variant, encoder_layers=2), picture(), query=4).queries[0]
    assert len(query.predictions) == 1
    assert query.start is not None
    points = query.looks[0].points
    np.testing.assert_allclose(points.xy[0, 4], query.start.xy, atol=1e-3)
    assert points.xy.shape == (4, 60, 2)
    if variant == "tsp-fcos-compact":
        assert query.start.level == points.levels[4]  # type: ignore[index]
        # Cells of stride 8 lie at multiples of 8 and half of it, in an image that was enlarged from 200 to 208 pixels.
        level = query.start.level or 0
        assert (query.start.xy[0] * 208 / 200 / (8 * 2**level)) % 1 == pytest.approx(0.5, abs=1e-3)
        assert query.start.cell_xyxy is not None
        sides = query.start.cell_xyxy[2:] - query.start.cell_xyxy[:2]
        np.testing.assert_allclose(
            sides * 208 / 200, 8 * 2**level, rtol=0.01
        )  # the image is 125 pixels high, not 124.8
    else:
        assert query.start.cell_xyxy is None
        assert query.start.box_xyxy is not None
        np.testing.assert_allclose(query.start.xy, (query.start.box_xyxy[:2] + query.start.box_xyxy[2:]) / 2, atol=1e-3)


@pytest.mark.parametrize(
    ("variant", "tokens"),
    [
        ("detr-compact", [(2 * 7 + 5, 0)]),
        ("anchor-detr-compact", [(5 * 13 + 9, 0)]),
        ("deformable-detr-compact", [(10 * 26 + 19, 0), (416 + 5 * 13 + 9, 1), (416 + 104 + 2 * 7 + 5, 2)]),
    ],
)
def test_the_token_of_each_level_at_a_place(variant: str, tokens: list[tuple[int, int]]) -> None:
    place = explain(small_model(variant, encoder_layers=2), picture(), at=(150, 80), layers=[1]).place
    assert place is not None
    assert [(each.token, each.level) for each in place.tokens] == tokens
    for token in place.tokens:
        assert abs(token.xy - (150, 80)).max() < 200 / 7
        (look,) = token.looks
        assert look.layer == 1
        total = look.points.weights.sum() if isinstance(look.seen, Points) else look.maps.weights[0].sum()
        assert total == pytest.approx(len(look.heads), rel=1e-5)


def test_a_look_at_a_place_is_a_row_of_the_whole_look() -> None:
    model = small_model("detr-compact")
    whole: list[Tensor] = []
    attention: Any = model.encoder.layers[0].attention  # type: ignore[union-attr,index]
    attention.register_forward_hook(lambda module, given, _: whole.append(module.weights(*given)))
    place = explain(model, picture(), at=(150, 80)).place
    assert place is not None
    np.testing.assert_allclose(place.tokens[0].looks[0].maps.weights[0].reshape(8, -1), whole[0][0, :, 19], rtol=1e-5)


def test_layers_and_heads_can_be_chosen() -> None:
    model = small_model("deformable-detr-compact")
    every = explain(model, picture(), query=1).queries[0]
    query = explain(model, picture(), query=1, layers=[1], heads=[6, 2]).queries[0]
    assert len(query.predictions) == 2
    (look,) = query.looks
    assert (look.layer, look.heads) == (1, (6, 2))
    np.testing.assert_array_equal(look.points.xy, every.looks[1].points.xy[[6, 2]])
    np.testing.assert_array_equal(look.points.weights, every.looks[1].points.weights[[6, 2]])


@pytest.mark.parametrize(
    ("variant", "asked", "sentence"),
    [
        ("detr-compact", {"detection": 999}, r"detection must be from 0 \(the best\) to \d+ in this picture, not 999"),
        ("detr-compact", {"detection": -1}, r"detection must be from 0 .* not -1"),
        ("detr-compact", {"query": 100}, r"query must be from 0 to \d+, not 100"),
        ("detr-compact", {"at": (200, 5)}, "at must lie in the picture, which is 200 × 120 pixels, and 200,5 does not"),
        ("detr-compact", {"at": (5, -1)}, "and 5,-1 does not"),
        ("detr-compact", {"query": 1, "layers": [3]}, r"layers must be from 0 to 2, those of the decoder, not 3"),
        ("detr-compact", {"at": (5, 5), "layers": [1]}, r"layers must be from 0 to 0, those of the encoder, not 1"),
        ("detr-compact", {"query": 1, "heads": [8]}, r"heads must be from 0 to 7, those of its attention, not 8"),
        ("detr-compact", {"query": 1, "heads": []}, "heads names none: leave it out for all of them"),
        ("detr-compact", {"query": 1, "detection": 0}, "detection and query exclude each other: give one of them"),
    ],
)
def test_what_is_not_there(variant: str, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        explain(small_model(variant), picture(), **asked)


@pytest.mark.parametrize(
    ("variant", "sentence"),
    [
        ("smca-detr-compact-multiscale", "the encoder of a smca-detr-compact-multiscale has 1 layer of convolutions, which have no weights"),
        ("deformable-detr-compact", "the encoder of a deformable-detr-compact has no layers: leave the place out"),
    ],
)  # fmt: skip
def test_places_need_attention_in_the_encoder(variant: str, sentence: str) -> None:
    layers = 0 if "no layers" in sentence else 1
    with pytest.raises(ConfigurationError, match=sentence):
        explain(small_model(variant, encoder_layers=layers), picture(), at=(5, 5))


def test_without_any_layers_there_is_nothing_to_choose() -> None:
    model = small_model("tsp-fcos-compact", encoder_layers=0)
    assert explain(model, picture(), query=0).queries[0].looks == ()
    with pytest.raises(OptionError, match="layers names 0, and the encoder has none: leave it out"):
        explain(model, picture(), query=0, layers=[0])
    with pytest.raises(
        ConfigurationError, match="has no layers: leave the place out, since nothing in this model attends"
    ):
        explain(model, picture(), at=(5, 5))


def test_what_a_look_has_not_says_what_it_has_instead() -> None:
    dense = explain(small_model("detr-compact"), picture(), query=0).queries[0].looks[0]
    assert isinstance(dense.maps, Maps)
    with pytest.raises(
        ConfigurationError, match=re.escape("layer 0 samples no points: it has weights of cells (`maps`)")
    ):
        _ = dense.points
    sampled = explain(small_model("dino-compact"), picture(), query=0).queries[0].looks[1]
    with pytest.raises(
        ConfigurationError, match=re.escape("layer 1 weighs no cells: it has points with weights (`points`)")
    ):
        _ = sampled.maps
    salient = explain(small_model("sam-detr-compact-without-cross-attention"), picture(), query=0).queries[0].looks[0]
    with pytest.raises(ConfigurationError, match=re.escape("it has salient points (`salient`)")):
        _ = salient.maps


def test_nobody_pays_who_does_not_ask() -> None:
    code = (
        "import sys, detrkit; detrkit.build('detr-compact', classes=['a']); detrkit.Predictor; "
        "print([name for name in sys.modules if name.startswith('detrkit.explaining')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_explanation_in_a_line() -> None:
    explained = explain(small_model("detr-compact"), picture(), query=7)
    assert repr(explained) == "<Explanation of a detr-compact in 200 × 120 pixels: queries [7]>"
