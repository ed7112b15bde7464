"""How good are detections? COCO's figures of a model or of a result file, and reports that people can read.

`coco` compares result entries with ground truth, `figures` holds what comes out, `runner` lets a model find the objects of a data set first,
`report` writes one HTML file.
"""

from __future__ import annotations

from detrkit.evaluation.coco import evaluate_detections
from detrkit.evaluation.figures import Evaluation
from detrkit.evaluation.runner import detect, evaluate

__all__ = ["Evaluation", "detect", "evaluate", "evaluate_detections"]
