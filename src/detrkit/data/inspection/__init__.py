"""Looks at a data set before anything is trained on it: figures, and findings with their severity and remedy.

`checks` lists all checks, `kinds` says what each finding means. `detrkit.evaluation.inspecting` puts them together with what needs an evaluator.
"""

from detrkit.data.inspection.checks import picture_findings, quick_findings
from detrkit.data.inspection.classes import what_lacks
from detrkit.data.inspection.copies import files_in_two_splits
from detrkit.data.inspection.finding import Finding, Split, finding
from detrkit.data.inspection.inspection import Inspection, in_order
from detrkit.data.inspection.kinds import KINDS, Kind
from detrkit.data.inspection.masks import mask_findings
from detrkit.data.inspection.pictures import Look, look_at_pictures
from detrkit.data.inspection.reading import Opened, open_splits
from detrkit.data.inspection.statistics import SplitStatistics, statistics_of

__all__ = [
    "KINDS",
    "Finding",
    "Inspection",
    "Kind",
    "Look",
    "Opened",
    "Split",
    "SplitStatistics",
    "files_in_two_splits",
    "finding",
    "in_order",
    "look_at_pictures",
    "mask_findings",
    "open_splits",
    "picture_findings",
    "quick_findings",
    "statistics_of",
    "what_lacks",
]
