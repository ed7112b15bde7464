"""Images in, detections out: predictors for pictures and streams, image files from paths and patterns, drawings, and result files."""

import warnings

with warnings.catch_warnings():
    # supervision warns on import if OpenCV is not installed; our drawings do not need it.
    warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
    import supervision as _  # noqa: F401

from detrkit.prediction.drawing import contact_sheet, draw, side_by_side, truth_of
from detrkit.prediction.files_run import Outcome, predict_files
from detrkit.prediction.inputs import find_images
from detrkit.prediction.predictor import Predictor
from detrkit.prediction.results import output_names, save_image, to_entries, to_file_entries
from detrkit.prediction.slicing import SlicedPredictor
from detrkit.prediction.streaming import Prediction

__all__ = [
    "Outcome",
    "Prediction",
    "Predictor",
    "SlicedPredictor",
    "contact_sheet",
    "draw",
    "find_images",
    "output_names",
    "predict_files",
    "save_image",
    "side_by_side",
    "to_entries",
    "to_file_entries",
    "truth_of",
]
