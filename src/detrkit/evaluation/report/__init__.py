"""Reports for people: one HTML file with everything in it, and its charts as PNG files.

`evaluation_sections` makes the sections of an evaluation, `write_report` the file; charts and pictures are modules of their own.
"""

from detrkit.evaluation.report.charts import class_figure, curves_figure, precision_recall_figure, training_curves
from detrkit.evaluation.report.page import (
    Beside,
    Block,
    Cell,
    Chart,
    Chooser,
    Folded,
    Key,
    Photo,
    Points,
    Section,
    Table,
    Tile,
    Tiles,
    write_charts,
    write_photos,
    write_report,
)
from detrkit.evaluation.report.panoptic_sections import panoptic_sections
from detrkit.evaluation.report.pictures import example_pictures, worst_pictures
from detrkit.evaluation.report.sections import evaluation_sections, finding_points

__all__ = [
    "Beside",
    "Block",
    "Cell",
    "Chart",
    "Chooser",
    "Folded",
    "Key",
    "Photo",
    "Points",
    "Section",
    "Table",
    "Tile",
    "Tiles",
    "class_figure",
    "curves_figure",
    "evaluation_sections",
    "example_pictures",
    "finding_points",
    "panoptic_sections",
    "precision_recall_figure",
    "training_curves",
    "worst_pictures",
    "write_charts",
    "write_photos",
    "write_report",
]
