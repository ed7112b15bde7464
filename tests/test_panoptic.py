"""Panoptic results: what they say of themselves, and ids as colours."""

from __future__ import annotations

import numpy as np

from detrkit.cards import Category
from detrkit.panoptic import PanopticSegmentation, Segment, colors_of_ids, ids_of_colors

SKY, DOG = Category(119, "sky", 1, thing=False), Category(18, "dog", 0)


def segmentation() -> PanopticSegmentation:
    ids = np.full((20, 30), 2, dtype=np.int32)
    ids[5:15, 5:15] = 1
    return PanopticSegmentation(ids, (Segment(1, DOG, 100, score=0.75), Segment(2, SKY, 500, score=0.5)))


def test_its_repr_is_a_line() -> None:
    assert repr(segmentation()) == "<PanopticSegmentation 30 x 20 pixels, 1 things, 1 stuff>"


def test_notebooks_show_the_largest_segment_first() -> None:
    html = segmentation()._repr_html_()
    assert html.index("sky") < html.index("dog")
    assert "stuff" in html
    assert "0.750" in html


def test_ids_survive_as_colours() -> None:
    ids = np.array([[0, 1, 255], [256, 65535, 65536], [70000, 2**24 - 1, 3]])
    colors = colors_of_ids(ids)
    assert colors[1, 0].tolist() == [0, 1, 0]  # red, 256 green, 65536 blue
    assert np.array_equal(ids_of_colors(colors), ids)


def test_some_classes_alone() -> None:
    found = segmentation().of_classes([18])
    assert [segment.category.name for segment in found.segments] == ["dog"]
    assert np.unique(found.ids, return_counts=True)[1].tolist() == [500, 100]  # void, and the dog
