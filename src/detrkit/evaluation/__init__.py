"""How good are detections? COCO's figures for a model or a result file, and reports for people.

`evaluate` runs a model on a data set and computes the figures; `detect` and `compare` are its two halves. `evaluate_detections` compares
result entries from any source with ground truth. `inspect_data` looks at a data set before anything is trained on it. `detrkit.evaluation.report` writes one HTML file.
"""

from detrkit.evaluation.coco import evaluate_detections
from detrkit.evaluation.figures import ClassFigures, Evaluation
from detrkit.evaluation.inspecting import inspect_data
from detrkit.evaluation.runner import compare, detect, evaluate

__all__ = ["ClassFigures", "Evaluation", "compare", "detect", "evaluate", "evaluate_detections", "inspect_data"]
