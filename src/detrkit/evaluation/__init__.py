"""How good are detections? COCO's figures of a model or of a result file, and reports that people can read.

`evaluate` lets a model look at a data set; `detect` and `compare` are its two halves. `evaluate_detections` compares result entries, from
wherever, with ground truth. `detrkit.evaluation.report` writes one HTML file.
"""

from detrkit.evaluation.coco import evaluate_detections
from detrkit.evaluation.figures import ClassFigures, Evaluation
from detrkit.evaluation.runner import compare, detect, evaluate

__all__ = ["ClassFigures", "Evaluation", "compare", "detect", "evaluate", "evaluate_detections"]
