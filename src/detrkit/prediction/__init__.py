"""Images in, detections out: a predictor, image files from paths and patterns, drawings, and result files."""

import warnings

with warnings.catch_warnings():
    # supervision warns on import if OpenCV is not installed; our drawings do not need it.
    warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
    import supervision as _  # noqa: F401

from detrkit.prediction.drawing import contact_sheet, draw, side_by_side, truth_of
from detrkit.prediction.inputs import find_images
from detrkit.prediction.predictor import Predictor
from detrkit.prediction.results import output_names, save_image, to_entries, to_file_entries

__all__ = [
    "Predictor",
    "contact_sheet",
    "draw",
    "find_images",
    "output_names",
    "save_image",
    "side_by_side",
    "to_entries",
    "to_file_entries",
    "truth_of",
]
