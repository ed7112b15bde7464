"""From image files to files of results: what `detrkit predict` does once the model is loaded."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from detrkit.cards import ModelCard
from detrkit.data.wording import agreeing, counted, some_of, were
from detrkit.prediction.predictor import Predictor
from detrkit.prediction.result_files import Result, ResultFile, ResultFormat, result_files
from detrkit.prediction.slicing import SlicedPredictor
from detrkit.prediction.stopping import StopSignals
from detrkit.prediction.streaming import Prediction
from detrkit.prediction.suppression import KEEP_ALL

_CLASSES_SHOWN = 12
_HIDDEN_SCORE = 0.005  # what two decimals show as 0.00


@dataclass
class Outcome:
    """What became of the images of a run.

    Attributes:
        total: images that were given.
        done: images whose results are written.
        detections: in all of them.
        classes: how many of them there are of each class, by its name.
        best_score: the highest score in any of them, whatever the threshold.
        problems: a sentence for each image that could not be read.
        seconds: that the run took.
        stopped: whether it was asked to stop before the end.
    """

    total: int
    done: int = 0
    detections: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    best_score: float = 0.0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    stopped: bool = False

    def __repr__(self) -> str:
        stopped = ", stopped" if self.stopped else ""
        return (
            f"<Outcome {some_of(self.done, self.total, 'image')} done, {counted(self.detections, 'detection')}, "
            f"{counted(len(self.problems), 'problem')}{stopped}>"
        )

    @property
    def looked_at(self) -> int:
        """Images that are done or could not be read."""
        return self.done + len(self.problems)

    def summary(self, thresholds: str, where: Sequence[Path]) -> str:
        """What was found, how fast, and where it is; then how much there is of each class."""
        found, images = counted(self.detections, "detection"), counted(self.done, "image")
        speed = f"{self.seconds:.1f} s, {self.done / self.seconds:.3g} images/s" if self.seconds else "at once"
        places = f": see {', '.join(map(str, where))}" if where else ""
        sentence = f"{found} {thresholds} in {images} ({speed}){places}"
        if self.classes:
            sentence += f"\nBy class: {_most_common(self.classes)}"
        if not self.detections and self.done:
            best = f"{self.best_score:.2f}" if self.best_score >= _HIDDEN_SCORE else f"{self.best_score:.1g}"
            sentence += f"\nNothing reaches the threshold; the highest score is {best}: --threshold sets a lower one."
        return sentence

    def unreadable(self) -> str:
        """A sentence about the images that could not be read, empty where there are none."""
        if not self.problems:
            return ""
        if self.total == 1:
            return self.problems[0]
        others = agreeing(self.done, "the other one", f"the other {self.done}")
        rest = f"the results of {others} are written" if self.done else "nothing was written"
        return (
            f"{some_of(len(self.problems), self.total, 'image')} could not be read and {were(len(self.problems))} skipped; {rest}. "
            f"The first: {self.problems[0]}"
        )


def _most_common(classes: Counter[str]) -> str:
    """The classes with the most detections and their numbers, and how many others there are."""
    shown, others = classes.most_common(_CLASSES_SHOWN), len(classes) - _CLASSES_SHOWN
    text = ", ".join(f"{name} {number}" for name, number in shown)
    return text if others <= 0 else f"{text} and {counted(others, 'other class', 'other classes')}"


def predict_files(
    predictor: Predictor | SlicedPredictor,
    paths: Sequence[Path],
    output: Path,
    *,
    formats: Sequence[ResultFormat] = ("json", "images"),
    progress: Callable[[Iterable[Prediction]], Iterable[Prediction]] = iter,
    more: Sequence[ResultFile] = (),
) -> Outcome:
    """Looks at image files one after another and writes what is found in each before it goes on.

    Images that cannot be read are skipped. Ctrl-C and SIGTERM end the run early: what is done stays, and the outcome says that it is not all.

    Args:
        predictor: plain or sliced.
        paths: of the images; all of them decide about ids and names, see `to_file_entries` and `output_names`.
        output: an existing folder; files of an earlier run with the same names are replaced.
        formats: what is written.
        progress: wraps the predictions, to show how far the run is.
        more: other files that get the results; they are finished here.

    Raises:
        OutputError: results cannot be written.
        NonFiniteError: the model produces NaN or infinity.
    """
    outcome, signals = Outcome(total=len(paths)), StopSignals()
    card = (predictor.predictor if isinstance(predictor, SlicedPredictor) else predictor).model.card
    began = time.perf_counter()
    try:
        with (
            signals.watched(),
            result_files(output, formats, paths, card.categories, more) as files,
            closing(predictor.stream(paths, skip_unreadable=True)) as predictions,
        ):
            for place, prediction in enumerate(progress(predictions)):
                with signals.protected():
                    _write(files, outcome, place, prediction)
    except KeyboardInterrupt:
        outcome.stopped = True
    outcome.seconds = time.perf_counter() - began
    return outcome


def _write(files: Sequence[ResultFile], outcome: Outcome, place: int, prediction: Prediction) -> None:
    """Writes what was found in an image, or notes why it could not be read."""
    if prediction.picture is None or prediction.detections is None:
        outcome.problems.append(str(prediction.problem))
        return
    result = Result(place, prediction.picture, prediction.detections, prediction.segmentation)
    for file in files:
        file.add(result)
    outcome.done += 1
    outcome.detections += len(prediction.detections)
    outcome.classes.update(map(str, prediction.detections.data["class_name"]))
    outcome.best_score = max(outcome.best_score, prediction.best_score)


def thresholds_shown(predictor: Predictor) -> str:
    """From which scores detections count, such as "from score 0.50", and whether repeated ones are left out."""
    nms = (
        "" if predictor.nms is None or predictor.nms == KEEP_ALL else f" without repeated ones (NMS {predictor.nms:g})"
    )
    own = predictor.class_thresholds.values()
    if not own:
        return f"from score {predictor.threshold:.2f}{nms}"
    scores = sorted({f"{score:.2f}" for score in own}, key=float)
    others = f", {predictor.threshold:.2f} for other classes" if len(own) < len(predictor.model.card.categories) else ""
    return f"from each class's own score ({' to '.join(dict.fromkeys((scores[0], scores[-1])))}{others}){nms}"


def threshold_note(card: ModelCard) -> str:
    """A sentence if nobody measured which scores are worth showing, empty otherwise."""
    if card.class_thresholds or card.threshold != ModelCard.threshold:
        return ""
    return (
        f"No threshold was measured for this model, so that of all untrained and published ones applies, {card.threshold:.2f}; "
        "--threshold sets another."
    )
