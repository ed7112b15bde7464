"""What a run gives back in Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from detrkit.evaluation import Analysis, Evaluation, PanopticEvaluation
from detrkit.evaluation.report import curves_figure
from detrkit.evaluation.report.drawing import on_white, small_png_of
from detrkit.notebooks import image, shown, table
from detrkit.training.run_folder import RunFolder, read_log


@dataclass(frozen=True, repr=False)
class TrainingResult:
    """The result of a run.

    Attributes:
        folder: the folder with everything that the run wrote.
        best: the checkpoint with the highest AP, or without a validation split the one with the lowest loss.
        evaluation: evaluation of that checkpoint on the validation split; None if there is no such split, or if a run that was finished
            before was resumed and nothing was left to do.
        analysis: of the same detections; None as for `evaluation`.
        segments: panoptic quality of that checkpoint; None unless the run learned panoptic segments.
    """

    folder: Path
    best: Path
    evaluation: Evaluation | None
    analysis: Analysis | None = None
    segments: PanopticEvaluation | None = None

    def plot(self) -> Figure:
        """The curves of the run: losses, AP and learning rate over the epochs. Notebooks show the figure."""
        return on_white(curves_figure(read_log(RunFolder(self.folder).log)))

    def __repr__(self) -> str:
        figures = {} if self.evaluation is None else self.evaluation.figures
        shown_figures = "".join(
            f", {name} {value:.3f}" for name in ("AP", "AP50") if (value := figures.get(name)) is not None
        )
        return f"TrainingResult({str(self.folder)!r}, best {self.best.name!r}{shown_figures})"

    def _repr_html_(self) -> str:
        """What notebooks show: where everything is, the curves, and the evaluation."""
        places = [("best model", self.best), ("report", RunFolder(self.folder).report)]
        evaluated = "" if self.evaluation is None else self.evaluation._repr_html_()
        figure = self.plot()
        words = "Losses, AP and learning rate over the epochs"
        curves = image(small_png_of(figure), words) if figure.axes else ""
        return shown(f"Run {self.folder.name}", table(("what", "where"), places), curves, evaluated)
