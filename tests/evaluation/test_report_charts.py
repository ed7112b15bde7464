"""Charts show the right numbers, can be told apart without seeing all colours, and take the page's colours."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from evaluation.made_analysis import made_analysis, made_evaluation
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from detrkit.evaluation.confusion import ConfusionMatrix
from detrkit.evaluation.figures import ClassFigures, Evaluation
from detrkit.evaluation.report import class_figure, curves_figure, precision_recall_figure, training_curves
from detrkit.evaluation.report.analysis_charts import (
    class_curves_figure,
    confused_pairs,
    confusion_figure,
    matrix_classes,
    overall_curve_figure,
)
from detrkit.evaluation.report.charts import bars_figure, spread
from detrkit.evaluation.report.colors import LINE_COLORS, LINE_STYLES, MARKERS
from detrkit.evaluation.report.drawing import chart, plain, svg_of
from detrkit.evaluation.report.pictures import MARK_COLORS

ROWS = [
    {"epoch": 1, "loss": 4.0, "class_loss": 1.0, "box_loss": 0.5, "learning_rate": 1e-4, "AP": None},
    {"epoch": 2, "loss": 3.0, "AP": 0.1, "AP50": 0.2},
    {"epoch": 3, "loss": 2.5, "AP": 0.3, "AP50": 0.5},
]
# How colours look without the cones for green, for red and for blue, in linear light (Machado, Oliveira and Fernandes 2009).
SIGHTS = {
    "usual": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear(color: str) -> NDArray[np.float64]:
    values = np.array(to_rgb(color))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of linear sRGB under D65; distances of about 2 are just noticeable."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(light, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def closest(colors: tuple[str, ...], sight: str) -> float:
    seen = [lab(SIGHTS[sight] @ linear(color)) for color in colors]
    return min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(seen, 2))


def contrast(one: str, other: str) -> float:
    """As the Web Content Accessibility Guidelines define it."""
    low, high = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("sight", SIGHTS)
def test_lines_can_be_told_apart_whatever_a_reader_sees(sight: str) -> None:
    assert closest(LINE_COLORS, sight) > 15


def test_the_measure_of_colours_finds_red_and_green_alike() -> None:
    assert closest(("#C05040", "#707020"), "usual") > 40
    assert closest(("#C05040", "#707020"), "deuteranopia") < 15


@pytest.mark.parametrize("paper", ["#FFFFFF", "#14181D"])
def test_the_first_lines_stand_out_on_light_and_dark_paper(paper: str) -> None:
    assert min(contrast(color, paper) for color in LINE_COLORS[:4]) > 3


def test_lines_differ_without_colour_and_labels_on_boxes_can_be_read() -> None:
    assert len(set(map(str, LINE_STYLES))) == len(set(MARKERS)) == len(LINE_COLORS)
    assert min(contrast(color, "#000000") for color in MARK_COLORS.values()) > 4.5
    assert len(set(MARK_COLORS.values())) == len(MARK_COLORS)


def test_curves_of_a_run_show_its_rows() -> None:
    figures = training_curves(ROWS)
    assert list(figures) == ["loss", "loss of the last layer", "AP", "learning rate"]
    lines = {label: figure.axes[0].lines for label, figure in figures.items()}
    assert lines["loss"][0].get_xydata().tolist() == [[1, 4.0], [2, 3.0], [3, 2.5]]
    assert [line.get_label() for line in lines["loss of the last layer"]] == ["class loss", "box loss"]
    assert {line.get_label(): line.get_xydata().tolist() for line in lines["AP"]} == {
        "AP": [[2, 0.1], [3, 0.3]],
        "AP50": [[2, 0.2], [3, 0.5]],
    }
    assert [text.get_text() for text in figures["AP"].axes[0].texts] == ["●", "AP", "●", "AP50"]
    assert curves_figure([]).axes == []


def test_all_curves_in_one_picture_stand_below_each_other_on_a_phone_s_width() -> None:
    figure = curves_figure(ROWS)
    figure.draw_without_rendering()
    places = [axes.get_position() for axes in figure.axes]
    assert len(places) == 4
    assert all(lower.y1 < upper.y0 for upper, lower in itertools.pairwise(places))
    assert figure.get_size_inches().tolist() == [5.0, 10.0]


def test_what_is_measured_of_layers_has_a_line_for_each() -> None:
    rows = [
        {"epoch": epoch, "attention_sparsity": -2.0, "attention_sparsity_0": -4.0, "attention_sparsity_1": -epoch}
        | {"used_queries": 9, "used_queries_0": 5, "used_queries_1": 7 + epoch}
        for epoch in (1, 2)
    ]
    figures = training_curves(rows)
    assert list(figures) == ["attention sparsity", "used queries"]
    sparsity, used = (figure.axes[0] for figure in figures.values())
    assert {line.get_label(): line.get_xydata().tolist() for line in sparsity.lines} == {
        "layer 0": [[1, -4], [2, -4]],
        "layer 1": [[1, -1], [2, -2]],
    }
    assert [text.get_text() for text in used.texts] == ["●", "layer 0", "●", "layer 1"]
    dots = used.texts[::2]
    assert [dot.get_color() for dot in dots] == [line.get_color() for line in used.lines]
    assert sparsity.get_ylim()[0] < -4
    assert sparsity.get_ylim()[1] == 0
    assert used.get_ylim()[0] == 0


def test_a_single_epoch_stands_in_the_middle_of_its_curve() -> None:
    (axes,) = training_curves(ROWS[:1])["loss"].axes
    assert axes.get_xlim() == (0.5, 1.5)
    assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1.0]


def test_classes_are_sorted_and_show_their_intervals() -> None:
    (axes,) = class_figure(made_evaluation(), {5: (0.1, 0.35)}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat (10)", "dog (20)"]
    interval, ap, ap50 = axes.lines
    assert interval.get_xydata().tolist() == [[0.1, 0], [0.35, 0]]
    np.testing.assert_allclose(ap.get_xdata(), [0.2, 0.4])
    np.testing.assert_allclose(ap50.get_xdata(), [0.3, 0.5])


def test_precision_over_recall_of_each_class_and_their_mean() -> None:
    (axes,) = precision_recall_figure(made_evaluation()).axes
    assert [line.get_label() for line in axes.lines] == ["cat", "dog", "mean of the classes"]
    np.testing.assert_allclose(axes.lines[2].get_xydata()[[0, 100]], [[0, 1], [1, 0.3]])
    many = tuple(ClassFigures(number, f"class {number}", 0.5, 0.5, 1, (1.0, 0.0)) for number in range(30))
    figure = precision_recall_figure(Evaluation("many", {}, many, 1, 30, 0, 0))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["mean of the classes"]


@pytest.mark.parametrize("name", ["cat", "a class with a very long name indeed"])
def test_the_legend_of_precision_and_recall_lies_below_the_curves(name: str) -> None:
    classes = tuple(ClassFigures(number, f"{name} {number}", 0.5, 0.5, 1, (1.0, 0.0)) for number in range(4))
    figure = precision_recall_figure(Evaluation("few", {}, classes, 1, 4, 0, 0))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    box, curves = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert box.y1 < curves.y0
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_curves_against_the_threshold() -> None:
    (axes,) = overall_curve_figure(made_analysis()).axes
    lines = {line.get_label(): np.asarray(line.get_xydata()) for line in axes.lines}
    assert list(lines) == ["precision", "recall", "F1", "mean F1 of the classes", "threshold"]
    np.testing.assert_allclose(lines["recall"][[0, 50]], [[0, 0.9], [0.5, 0.5]])
    assert np.isnan(lines["precision"][95, 1])
    np.testing.assert_allclose(lines["threshold"][:, 0], 0.4321)


def test_curves_of_classes_have_names_that_a_page_chooses_by() -> None:
    figure = class_curves_figure(made_analysis())
    names = [line.get_gid() for line in figure.axes[0].lines]
    assert names == [
        f"choice-{number}-{name}" for number in (0, 1) for name in ("precision", "recall", "F1", "threshold")
    ]
    svg = svg_of(figure, "thresholds", "words")
    assert all(svg.count(f'id="{name}"') == 1 for name in names)


def test_a_confusion_matrix_of_few_classes_has_numbers() -> None:
    figure = confusion_figure(made_analysis().confusion)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "missed"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "background"]
    assert [text.get_text() for text in axes.texts] == ["6", "3", "1", "0", "6", "14", "1", "1", "0"]
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array())[0], [0.6, 0.3, 0.1])


def test_a_confusion_matrix_of_many_classes_shows_those_that_occur() -> None:
    size = 200
    counts = np.zeros((size + 1, size + 1), dtype=int)
    np.fill_diagonal(counts[:150, :150], 5)
    counts[3, 140] = 7
    confusion = ConfusionMatrix(
        tuple(range(size)), tuple(f"c{k}" for k in range(size)), tuple(map(tuple, counts.tolist()))
    )
    shown = matrix_classes(confusion)
    assert len(shown) == 90
    assert {3, 140} <= set(shown)
    assert shown == sorted(shown)
    assert not confusion_figure(confusion).axes[0].texts
    assert confused_pairs(confusion) == [("c3", "c140", 7, pytest.approx(7 / 12))]


def test_names_of_line_ends_keep_their_order_and_their_distance() -> None:
    assert spread([0.5, 0.5, 0.1], 0.1) == pytest.approx([0.5, 0.6, 0.1])
    assert spread([0.99, 1.0], 0.1) == pytest.approx([0.9, 1.0])
    assert spread([], 0.1) == []


def test_bars_have_their_numbers_at_the_end() -> None:
    (axes,) = bars_figure([("one", 3.0, "3"), ("two", 1.0, "1")], "errors").axes
    assert [bar.get_width() for bar in axes.patches] == [3, 1]
    assert axes.patches[0].get_y() > axes.patches[1].get_y()
    assert [text.get_text() for text in axes.texts] == ["3", "1"]


def test_names_are_plain_text() -> None:
    assert plain("a $b$\nc") == r"a \$b\$ c"
    assert plain("x" * 30) == "x" * 25 + "…"


def test_svg_takes_colours_and_typeface_of_the_page() -> None:
    svg = svg_of(class_figure(made_evaluation(("a $x$ <b>", "狗", "cow"))), "classes", 'AP of "a" & <b>')
    assert svg.startswith('<svg role="img" aria-label="AP of &#34;a&#34; &amp; &lt;b&gt;"')
    assert "currentColor" in svg
    assert "#1f2328" not in svg
    assert "DejaVu" not in svg
    assert "a $x$ &lt;b&gt; (10)" in svg
    assert "狗 (20)" in svg
    assert "http" not in svg
    assert svg == svg_of(class_figure(made_evaluation(("a $x$ <b>", "狗", "cow"))), "classes", 'AP of "a" & <b>')
    assert 'aria-label="1\\2"' in svg_of(chart(), "empty", "1\\2")


def test_names_that_begin_with_an_underscore_are_in_legends() -> None:
    figure = precision_recall_figure(made_evaluation(["_cat", "dog", "none"]))
    legend = figure.axes[0].get_legend()
    assert legend is not None
    shown = [text.get_text().strip() for text in legend.get_texts()]
    assert shown == ["_cat", "dog", "mean of the classes"]
    assert plain("_cat") == "\N{NO-BREAK SPACE}_cat"
