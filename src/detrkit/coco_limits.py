"""What COCO's evaluation fixes: how many detections count, and which objects are small, medium or large.

Areas are in square pixels. As in COCO's evaluation both ends belong to a range, so an object of exactly 32 × 32 pixels is small and medium.
"""

from __future__ import annotations

from detrkit.errors import ConfigurationError

# COCO counts so many of the best detections of each class in an image. `detrkit evaluate` takes the number from --max-detections, and keeps so
# many of an image whatever their classes are, as the papers' authors do.
MAX_DETECTIONS = 100

SMALL, LARGE = 32.0**2, 96.0**2  # where medium begins and ends
ALL_AREAS = (0.0, 1e10)
AREAS = {"small": (0.0, SMALL), "medium": (SMALL, LARGE), "large": (LARGE, 1e10)}
AREA_WORDS = {"small": "up to 32 × 32 pixels", "medium": "32 × 32 to 96 × 96 pixels", "large": "from 96 × 96 pixels"}


def check_max_detections(number: int) -> None:
    """Refuses a number of detections per image that counts none.

    Raises:
        ConfigurationError: it is below 1.
    """
    if number < 1:
        raise ConfigurationError(
            f"{number} detections per image count nothing: choose at least 1 (COCO counts {MAX_DETECTIONS} of each class)"
        )
