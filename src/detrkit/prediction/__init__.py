"""Images in, detections out: predictors for pictures and streams, image files from paths and patterns, drawings, and result files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.lazy import lazy_names

if TYPE_CHECKING:
    from detrkit.prediction.drawing import contact_sheet, draw, side_by_side, truth_of
    from detrkit.prediction.files_run import Outcome, predict_files
    from detrkit.prediction.inputs import find_images
    from detrkit.prediction.mask_drawing import draw_panoptic
    from detrkit.prediction.panoptic_files import PanopticFile, read_panoptic, write_panoptic
    from detrkit.prediction.picture_detections import DetectionsOfPictures, PictureDetections
    from detrkit.prediction.predictor import Predictor
    from detrkit.prediction.results import output_names, save_image, to_entries, to_file_entries
    from detrkit.prediction.slicing import SlicedPredictor
    from detrkit.prediction.streaming import Prediction

__all__ = [
    "DetectionsOfPictures",
    "Outcome",
    "PanopticFile",
    "PictureDetections",
    "Prediction",
    "Predictor",
    "SlicedPredictor",
    "contact_sheet",
    "draw",
    "draw_panoptic",
    "find_images",
    "output_names",
    "predict_files",
    "read_panoptic",
    "save_image",
    "side_by_side",
    "to_entries",
    "to_file_entries",
    "truth_of",
    "write_panoptic",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "drawing": ("contact_sheet", "draw", "side_by_side", "truth_of"),
        "files_run": ("Outcome", "predict_files"),
        "inputs": ("find_images",),
        "mask_drawing": ("draw_panoptic",),
        "panoptic_files": ("PanopticFile", "read_panoptic", "write_panoptic"),
        "picture_detections": ("DetectionsOfPictures", "PictureDetections"),
        "predictor": ("Predictor",),
        "results": ("output_names", "save_image", "to_entries", "to_file_entries"),
        "slicing": ("SlicedPredictor",),
        "streaming": ("Prediction",),
    },
)
