"""Images in, detections out: `predictor` runs a model, `inputs` finds images, `drawing` shows detections, `results` writes files."""

import warnings

with warnings.catch_warnings():
    # supervision warns on import where OpenCV is not installed; what is drawn here does not need it.
    warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
    import supervision as _  # noqa: F401
