"""How good are detections? COCO's figures for a model or a result file, and reports for people.

`evaluate` runs a model on a data set and computes the figures; `detect` and `compare` are its two halves. `evaluate_detections` compares
result entries from any source with ground truth, and `analyze` says what goes wrong and how certain the figures are. `inspect_data` looks at
a data set before anything is trained on it. `panoptic_quality` compares panoptic segmentations. `detrkit.evaluation.report` writes one HTML file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.lazy import lazy_names

if TYPE_CHECKING:
    from detrkit.evaluation.analysis import Analysis, analyze, evaluate_in_detail
    from detrkit.evaluation.coco import evaluate_detections
    from detrkit.evaluation.figures import ClassFigures, Evaluation
    from detrkit.evaluation.inspecting import inspect_data
    from detrkit.evaluation.panoptic import PanopticCounter, panoptic_quality
    from detrkit.evaluation.panoptic_figures import PanopticClass, PanopticEvaluation, PanopticMean
    from detrkit.evaluation.panoptic_results import evaluate_panoptic_file
    from detrkit.evaluation.panoptic_runner import evaluate_panoptic
    from detrkit.evaluation.runner import compare, compare_in_detail, detect, evaluate

__all__ = [
    "Analysis",
    "ClassFigures",
    "Evaluation",
    "PanopticClass",
    "PanopticCounter",
    "PanopticEvaluation",
    "PanopticMean",
    "analyze",
    "compare",
    "compare_in_detail",
    "detect",
    "evaluate",
    "evaluate_detections",
    "evaluate_in_detail",
    "evaluate_panoptic",
    "evaluate_panoptic_file",
    "inspect_data",
    "panoptic_quality",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "analysis": ("Analysis", "analyze", "evaluate_in_detail"),
        "coco": ("evaluate_detections",),
        "figures": ("ClassFigures", "Evaluation"),
        "inspecting": ("inspect_data",),
        "panoptic": ("PanopticCounter", "panoptic_quality"),
        "panoptic_figures": ("PanopticClass", "PanopticEvaluation", "PanopticMean"),
        "panoptic_results": ("evaluate_panoptic_file",),
        "panoptic_runner": ("evaluate_panoptic",),
        "runner": ("compare", "compare_in_detail", "detect", "evaluate"),
    },
)
