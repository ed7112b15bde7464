"""What happens at the end of every epoch: evaluate, report, log and save the models."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from detrkit.cards import ModelCard
from detrkit.checkpoints import save
from detrkit.data import DetectionDataset
from detrkit.evaluation import Evaluation, evaluate, evaluate_panoptic
from detrkit.evaluation.runner import with_best_thresholds
from detrkit.files import write_atomically, write_json
from detrkit.measures import (
    AP,
    IMAGES_PER_SECOND,
    LEARNING_RATE,
    LOSS,
    MASK_AP,
    MATCHED_CLASS_ACCURACY,
    PQ,
    REPEATED_SHARE,
    SECONDS,
    Measure,
)
from detrkit.models.detector import Detector
from detrkit.progress import duration
from detrkit.training.averaging import Averaging
from detrkit.training.learning import LearningWindow
from detrkit.training.module import TrainingModule
from detrkit.training.progress import ProgressLines
from detrkit.training.run_folder import RunFolder, append_to_log
from detrkit.training.training_options import TrainingOptions

_SAVE_EVERY = 60.0  # seconds between two checkpoints if epochs are shorter than that
_PRINT_EVERY = 10.0  # seconds between two lines on the console if epochs are shorter than that


class EpochEnds(Callback):
    """Evaluates, prints one line, extends the log and saves the best and the last model.

    Args:
        folder: the run's folder.
        validation: what the model is evaluated on; None if the data set has no such split, in which case the lowest loss is best.
        progress: prints the lines, and shows how far an evaluation is.
        averaging: averages the weights, if that is what is evaluated and saved.
    """

    def __init__(
        self,
        folder: RunFolder,
        validation: DetectionDataset | None,
        progress: ProgressLines,
        averaging: Averaging | None = None,
    ) -> None:
        self.folder, self.validation, self.progress, self.averaging = folder, validation, progress, averaging
        self._window = LearningWindow(None)
        self._began = self._saved = self._printed = time.perf_counter()
        self._logged_step = 0
        self._explained = folder.state.is_file()  # in what this run printed before it was resumed

    def on_train_epoch_start(self, *_: object) -> None:
        """Starts the clock."""
        self._window.clear()
        self._began = time.perf_counter()

    def on_train_batch_end(self, _: Trainer, pl_module: TrainingModule, *__: object) -> None:  # type: ignore[override]
        """Adds the step to the epoch's means, and logs every tenth step to TensorBoard."""
        assert pl_module.losses is not None
        self._window.add(pl_module.losses)
        step = pl_module.global_step
        if step % 10 == 0 and step != self._logged_step:  # once per step, not once per piece of its batch
            self._logged_step = step
            losses = {name: value.item() for name, value in pl_module.losses.terms.items()}
            pl_module.logger.log_metrics({"loss": pl_module.losses.total.item(), **losses}, step)  # type: ignore[union-attr]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Evaluates if it is time to, then writes log, metrics and models."""
        seconds = time.perf_counter() - self._began
        epoch, last = trainer.current_epoch + 1, pl_module.global_step >= pl_module.schedule.steps
        evaluates = self.validation is not None and (last or epoch % pl_module.options.evaluate_every == 0)
        # Epochs of a tiny data set take no time: writing and printing after each would take longer than training.
        # The first epoch is kept in any case, so that a run that is stopped later can go on.
        due = time.perf_counter() - self._saved > _SAVE_EVERY or not self.folder.state.is_file()
        saves = evaluates or last or due
        row, message = self._summary(trainer, pl_module, epoch, seconds)
        model = self._model(pl_module)
        model.card = dataclasses.replace(model.card, metrics={})  # the old metrics belong to other weights
        if evaluates:
            if due:
                self._write(pl_module, row, saves=True)  # an image that cannot be read ends the run here
                self._save_state(trainer)
            message += self._evaluate(pl_module, row)
        if not last and self.progress.pace is not None:
            message += f"; about {duration(self.progress.pace.left(epoch) or 0.0)} left"
        self._write(pl_module, row, saves=saves)
        pl_module.logger.log_metrics({f"epoch/{name}": value for name, value in row.items()}, pl_module.global_step)  # type: ignore[union-attr]
        if saves:
            self._save_state(trainer)
        if saves or time.perf_counter() - self._printed > _PRINT_EVERY:
            self.progress.line.print(message)
            self._printed = time.perf_counter()
            self._explain(row)

    def _model(self, module: TrainingModule) -> Detector:
        """What is evaluated and saved."""
        return module.model if self.averaging is None else self.averaging.model

    def _save_state(self, trainer: Trainer) -> None:
        # A temporary file is renamed at the end, so that a crash leaves the previous checkpoint in place.
        write_atomically(self.folder.state, trainer.save_checkpoint)
        self._saved = time.perf_counter()

    def _summary(
        self, trainer: Trainer, module: TrainingModule, epoch: int, seconds: float
    ) -> tuple[dict[str, float], str]:
        """The epoch as a row of the log and as a line for the console."""
        learning = self._window.learning()
        row = {"epoch": float(epoch), "step": float(module.global_step), **learning.row()}
        row[LEARNING_RATE.column] = trainer.optimizers[0].param_groups[0]["lr"]
        row[SECONDS.column] = seconds
        row[IMAGES_PER_SECOND.column] = len(self._window) * module.schedule.piece_size / seconds
        return row, f"epoch {epoch}/{module.schedule.epochs}: {learning.in_words()}"

    def _evaluate(self, module: TrainingModule, row: dict[str, float]) -> str:
        assert self.validation is not None
        options, model = module.options, self._model(module)
        with self._paused():
            evaluation = evaluate(
                model,
                self.validation,
                batch_size=evaluation_batch(options),
                workers=options.workers or 0,
                progress=self.progress.follow,
            )
        row |= {name: value for name, value in evaluation.figures.items() if value is not None}
        if evaluation.masks is not None:
            row[MASK_AP.column] = evaluation.masks.figures["AP"] or 0.0
        if evaluation.repeated_share is not None:
            row[REPEATED_SHARE.column] = evaluation.repeated_share
        model.card = _with_figures(model.card, self.validation, evaluation)
        quality = f", mask AP {row[MASK_AP.column]:.3f}" if MASK_AP.column in row else ""
        if self.validation.is_panoptic:
            quality += f", PQ {self._panoptic_quality(module, row):.3f}"
        measure = decisive(row)
        best = (self._best() or {}).get(measure.column, -1.0)
        ap, ap50 = row.get("AP", 0.0), row.get("AP50", 0.0)
        repeats = ""
        if evaluation.suppression is not None and evaluation.suppression.helps:
            repeats = f"; {evaluation.repeated_share:.0%} of detections repeat a better one"
        return f"; AP {ap:.3f}, AP50 {ap50:.3f}{quality}{repeats}" + (
            f" (best {measure.name} so far {best:.3f})" if best > row.get(measure.column, 0.0) else ""
        )

    def _panoptic_quality(self, module: TrainingModule, row: dict[str, float]) -> float:
        """Panoptic quality with the thresholds that the evaluation of boxes has just found, also as a figure of the epoch and the model."""
        assert self.validation is not None
        options, model = module.options, self._model(module)
        with self._paused():
            evaluation = evaluate_panoptic(
                model,
                self.validation,
                batch_size=evaluation_batch(options),
                workers=options.workers or 0,
                progress=self.progress.follow,
            )
        row[PQ.column] = evaluation.pq or 0.0
        card = model.card
        model.card = dataclasses.replace(card, metrics={**card.metrics, PQ.name: row[PQ.column]})
        return row[PQ.column]

    def _paused(self) -> AbstractContextManager[None]:
        """Keeps the time of an evaluation apart from that of steps."""
        return nullcontext() if self.progress.pace is None else self.progress.pace.evaluating()

    def _explain(self, row: Mapping[str, float]) -> None:
        """Says once what the accuracy beside AP is, which looks like a contradiction where it is high and AP is low."""
        if not self._explained and AP.name in row and MATCHED_CLASS_ACCURACY.column in row:
            self.progress.line.print(f"({MATCHED_CLASS_ACCURACY.name}: {MATCHED_CLASS_ACCURACY.meaning}.)")
            self._explained = True

    def _best(self) -> dict[str, float] | None:
        """The log row of the epoch that the folder's best model comes from."""
        if not self.folder.best.is_file() or not self.folder.metrics.is_file():
            return None
        best: dict[str, float] | None = json.loads(self.folder.metrics.read_text(encoding="utf-8"))["best"]
        return best

    def _write(self, module: TrainingModule, row: dict[str, float], *, saves: bool) -> None:
        """Writes log and metrics; with `saves` also the last model, and the best one if this is the best so far."""
        append_to_log(self.folder.log, row)
        if saves:
            save(self._model(module), self.folder.last)
        best = self._best()
        if saves and self._is_better(row, best):
            save(self._model(module), self.folder.best)
            best = row
        write_json(self.folder.metrics, {"best": best, "last": row})

    def _is_better(self, row: dict[str, float], best: dict[str, float] | None) -> bool:
        """Whether an epoch beats the best one so far: by PQ, mask AP or AP, whichever comes first in it; by loss without a validation split."""
        metric, sign = LOSS.column, -1.0
        if self.validation is not None:
            metric, sign = decisive(row).column, 1.0
        if metric not in row:
            return False
        # If the validation split was added during the run, the best epoch so far was chosen by its loss and has no AP: any AP beats it.
        return best is None or metric not in best or sign * row[metric] > sign * best[metric]


def decisive(row: Mapping[str, float]) -> Measure:
    """The figure that decides which epoch is best. Where only a mask head learns, box AP stays the same."""
    return next((measure for measure in (PQ, MASK_AP) if measure.column in row), AP)


def _with_figures(card: ModelCard, validation: DetectionDataset, evaluation: Evaluation) -> ModelCard:
    figures = {name: value for name, value in evaluation.figures.items() if value is not None}
    return dataclasses.replace(with_best_thresholds(card, validation, evaluation), metrics=figures)


def evaluation_batch(options: TrainingOptions) -> int:
    """Number of images that are evaluated together: one, unless they are small."""
    return 8 if (options.short_side or 800) * (options.long_side or 1333) < 512 * 512 else 1
