"""What happens at the end of every epoch: evaluate, report, log and save the models."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, MutableSequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from detrkit.allocation import return_freed_memory
from detrkit.cards import ModelCard
from detrkit.checkpoints.own_format import write_pickled
from detrkit.data import DetectionDataset
from detrkit.errors import OutputError
from detrkit.evaluation import Evaluation, evaluate, evaluate_panoptic
from detrkit.evaluation.runner import with_best_thresholds
from detrkit.measures import (
    AP,
    IMAGES_PER_SECOND,
    LEARNING_RATE,
    MASK_AP,
    MATCHED_CLASS_ACCURACY,
    PQ,
    REPEATED_SHARE,
    SECONDS,
)
from detrkit.models.detector import Detector
from detrkit.prediction.devices import choose_device
from detrkit.progress import duration
from detrkit.training.averaging import Averaging
from detrkit.training.keeping import KEPT, SaveMoments, StateFile
from detrkit.training.kept_models import KeptModels, decisive
from detrkit.training.learning import LearningWindow
from detrkit.training.loggers import log_epoch, log_figures
from detrkit.training.module import TrainingModule
from detrkit.training.options import worker_count
from detrkit.training.processes import ALONE, Processes
from detrkit.training.progress import ProgressLines
from detrkit.training.run_folder import RunFolder, append_to_log, read_log
from detrkit.training.sharding import WholeModel
from detrkit.training.shared_evaluation import evaluate_together
from detrkit.training.training_options import TrainingOptions
from detrkit.training.watching import ConvergenceWatch

_SAVE_EVERY = 60.0  # seconds between two checkpoints if epochs are shorter than that
_PRINT_EVERY = 10.0  # seconds between two lines on the console if epochs are shorter than that
_RETURN_EVERY = 60.0  # seconds between two returns of freed memory, after which a step takes up to half a second longer


class EpochEnds(Callback):
    """Evaluates, prints one line, extends the log, and keeps the state and the best and the last model.

    Args:
        folder: the run's folder.
        validation: what the model is evaluated on; None if the data set has no such split, in which case the lowest loss is best.
        progress: prints the lines, and shows how far an evaluation is.
        processes: those of the run, of which the first one writes.
        averaging: has what is evaluated and saved, if that is not the model itself: an average of the weights, or all weights of a model
            that is shared out.
        watch: gives more figures of each epoch.
    """

    def __init__(
        self,
        folder: RunFolder,
        validation: DetectionDataset | None,
        progress: ProgressLines,
        processes: Processes = ALONE,
        averaging: Averaging | WholeModel | None = None,
        watch: ConvergenceWatch | None = None,
    ) -> None:
        self.folder, self.validation, self.progress, self.processes = folder, validation, progress, processes
        self.averaging, self.watch = averaging, watch
        self._models = KeptModels(folder, evaluates=validation is not None)
        self._window = LearningWindow(None, shared=True)
        self._began = self._saved = self._printed = self._returned = time.perf_counter()
        self._seconds = 0.0  # of the epoch, before the run was resumed
        self._first_step = 0  # of the epoch
        self._into = 0  # steps of the epoch, before the run was resumed
        self._unwritten: list[dict[str, float]] = []  # rows of the log
        self._row: dict[str, float] = {}  # of the last epoch
        self._is_complete = True  # whether all that was to be written lately was
        self._lacking: dict[str, Any] | None = (
            None  # an epoch that has still to be evaluated, or whose models have to be written
        )
        self._moments: SaveMoments | None = None
        self._logged_step = self._step = 0
        self._explained = folder.state.is_file()  # in what this run printed before it was resumed

    @property
    def state_key(self) -> str:
        """The name of its part of a checkpoint."""
        return KEPT

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of an epoch that is not finished, or not evaluated yet."""
        into = self._step - self._first_step
        unfinished: dict[str, Any] = {"window": self._window.state(), "seconds": self._epoch_seconds()} if into else {}
        watched = {} if self.watch is None else {"watch": self.watch.state()}
        return {"steps_into_epoch": into, "lacking": self._lacking, **unfinished, **watched}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on in the middle of an epoch."""
        self._into = state_dict["steps_into_epoch"]
        if self.watch is not None and "watch" in state_dict:
            self.watch.restore(state_dict["watch"])
        if self._into:
            self._window.restore(state_dict["window"])
            self._seconds = state_dict["seconds"]

    def on_train_start(self, _: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Starts the clocks; in the middle of an epoch if the run goes on there."""
        self._step = pl_module.global_step
        self._first_step = self._step - self._into
        self._began = time.perf_counter()
        seconds = 60 * pl_module.options.checkpoint_minutes
        self._moments = SaveMoments(seconds, self.processes.from_first)
        self._moments.kept(self._step)
        for row in reversed(self.rows()):  # of a run that goes on
            if (measure := decisive(row)).column in row:
                self.progress.evaluated(f"{measure.name} {row[measure.column]:.3f}")
                break

    def on_train_epoch_start(self, *_: object) -> None:
        """Starts the clock; memory that was kept free long enough goes back to the system."""
        if time.perf_counter() - self._returned > _RETURN_EVERY:
            return_freed_memory()
            self._returned = time.perf_counter()
        self._window.clear()
        self._seconds, self._first_step = 0.0, self._step
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, *_: object) -> None:  # type: ignore[override]
        """Adds the step to the epoch's means, logs every tenth step to TensorBoard and other loggers, and now and then keeps the state."""
        assert pl_module.losses is not None
        self._window.add(pl_module.losses)
        step = pl_module.global_step
        if step == self._step:
            return  # only a piece of a batch
        self._step = step
        if step % 10 == 0 and step != self._logged_step:
            self._logged_step = step
            losses = {name: value.item() for name, value in pl_module.losses.terms.items()}
            figures = {"loss": pl_module.losses.total.item(), **losses}
            log_figures(trainer.loggers, figures, step, self.progress.line.print)
        assert self._moments is not None
        is_end = trainer.is_last_batch or step >= pl_module.schedule.steps
        if not is_end and self._moments.is_due(step):
            self._keep_state(trainer, written=self._write_what_waits())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Evaluates if it is time to, then writes log, metrics and models."""
        seconds = self._epoch_seconds()
        epoch, last = trainer.current_epoch + 1, pl_module.global_step >= pl_module.schedule.steps
        evaluates = self.validation is not None and (last or epoch % pl_module.options.evaluate_every == 0)
        # Epochs of a tiny data set take no time: writing and printing after each would take longer than training.
        # The first epoch is kept in any case, so that a run that is stopped later can go on.
        is_first_state = self.processes.from_first(not self.folder.state.is_file())
        due = is_first_state or self.processes.from_first(time.perf_counter() - self._saved > _SAVE_EVERY)
        saves = evaluates or last or due
        row, message = self._summary(trainer, pl_module, epoch, seconds)
        self._first_step = self._step  # the epoch is finished
        model = self._model(pl_module)
        model.card = dataclasses.replace(model.card, metrics={})  # the old metrics belong to other weights
        if self.watch is not None and self.processes.is_first:
            with self._paused():
                row |= self.watch.figures(model)
        if is_first_state or (evaluates and due):
            # The state comes first: a folder that has models has a state, so that its run can always go on.
            self._lacking = {"row": dict(row), "message": message, "evaluates": evaluates}
            self._keep_state(trainer)
            self._lacking = None
        if evaluates:
            if due:
                self._write(pl_module, row, saves=True, last=False)  # an image that cannot be read ends the run here
            message += self._evaluate(pl_module, row)
        if not last and self.progress.pace is not None:
            message += f"; about {duration(self.progress.pace.left(epoch) or 0.0)} left"
        written = self._write(pl_module, row, saves=saves, last=last)
        log_epoch(trainer.loggers, row, self.progress.line.print)
        if saves:
            self._keep_state(trainer, last=last, written=written)
            self._saved = time.perf_counter()
        if saves or time.perf_counter() - self._printed > _PRINT_EVERY:
            self._say(message, row)

    def _model(self, module: TrainingModule) -> Detector:
        """What is evaluated and saved."""
        return module.model if self.averaging is None else self.averaging.model

    def catch_up(self, module: TrainingModule, loggers: MutableSequence[Logger]) -> None:
        """Ends the last epoch of a run that was killed while it did that; with the weights in its checkpoint, before the run goes on.

        Args:
            module: of the run.
            loggers: of the run, as `log_figures` takes them.
        """
        state = torch.load(self.folder.state, map_location="cpu", weights_only=True)
        kept = state["callbacks"][KEPT]
        lacking, kept["lacking"] = kept["lacking"], None
        module.load_state_dict(state["state_dict"])
        module.to(self.processes.device(choose_device(module.options.device)))
        if self.averaging is not None:
            self.averaging.restore(module, state["callbacks"])
        row, message = dict(lacking["row"]), lacking["message"]
        with self.progress.line:
            if self.validation is not None and lacking.get("evaluates", True):
                message += self._evaluate(module, row)
            self._write(module, row, saves=True, last=True)
            if self.processes.is_first:
                log_epoch(loggers, row, self.progress.line.print)
                try:
                    write_pickled(self.folder.state, state)
                except OutputError as problem:
                    self._go_on_without(problem, last=True)
            self._say(message, row)

    def rows(self) -> list[dict[str, float]]:
        """The rows of the log, also those that could not be written yet."""
        unwritten = {row["epoch"] for row in self._unwritten}
        return [row for row in read_log(self.folder.log) if row["epoch"] not in unwritten] + self._unwritten

    def finish(self, trainer: Trainer, module: TrainingModule) -> None:
        """Writes what could not be written at the end of this epoch, since the run ends early; all processes have to call it.

        Raises:
            OutputError: it still cannot.
        """
        if not self.processes.from_first(self._is_complete):
            self._write(module, self._row, saves=True, last=True)
            self._keep_state(trainer, last=True)

    def _keep_state(self, trainer: Trainer, *, last: bool = False, written: bool = True) -> None:
        """Writes the checkpoint that the run goes on from; all processes have to call it.

        Args:
            trainer: of the run.
            last: whether this is the last time.
            written: whether what comes before it was written; otherwise the earlier checkpoint stays, from which that is made again.
        """
        self._check_folder()
        if self._moments is not None:
            self._moments.kept(self._step)
        if not self.processes.from_first(written):
            return
        trainer.save_checkpoint(self.folder.state)
        file = trainer.strategy.checkpoint_io
        assert isinstance(file, StateFile)
        if file.problem is not None:
            self._go_on_without(file.problem, last=last)

    def _go_on_without(self, problem: OutputError, *, last: bool) -> None:
        """Says that a file could not be written; whatever is missing is written the next time.

        Raises:
            OutputError: there is no next time.
        """
        self._is_complete = False
        what = str(problem).rpartition(": ")[0]
        if last:
            remedy = "go on from the last checkpoint with --resume" if self.folder.state.is_file() else "train again"
            raise OutputError(f"{what}: make room or correct permissions, and {remedy}") from problem
        self.progress.line.print(
            f"Warning: {what}. Training goes on and tries again later; until then a stop loses more. Make room, or correct permissions."
        )

    def _check_folder(self) -> None:
        """Ends a run whose folder is gone, before another one in its place looks like a run.

        Raises:
            OutputError: it is.
        """
        if self.processes.is_first and not self.folder.config.is_file():
            raise OutputError(
                f"the folder of the run, {self.folder.path}, was removed or renamed while it was at work: train again"
            )

    def _epoch_seconds(self) -> float:
        return self._seconds + time.perf_counter() - self._began

    def _say(self, message: str, row: Mapping[str, float]) -> None:
        self.progress.line.print(message)
        self._printed = time.perf_counter()
        self._explain(row)

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
        evaluation = self._compared(module, self.validation)
        if evaluation is None:
            return ""
        model = self._model(module)
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
        best = (self._models.best or {}).get(measure.column, -1.0)
        ap, ap50 = row.get("AP", 0.0), row.get("AP50", 0.0)
        self.progress.evaluated(f"{measure.name} {row.get(measure.column, 0.0):.3f}")
        repeats = ""
        if evaluation.suppression is not None and evaluation.suppression.helps:
            repeats = f"; {evaluation.repeated_share:.0%} of detections repeat a better one"
        return f"; AP {ap:.3f}, AP50 {ap50:.3f}{quality}{repeats}" + (
            f" (best {measure.name} so far {best:.3f})" if best > row.get(measure.column, 0.0) else ""
        )

    def _compared(self, module: TrainingModule, validation: DetectionDataset) -> Evaluation | None:
        """The figures, for the first process; the others only look at their images."""
        options: dict[str, Any] = {
            "batch_size": evaluation_batch(module.options),
            "workers": worker_count(module.options),
            "progress": self.progress.follow,
        }
        with self._paused():
            if self.processes.count == 1:
                return evaluate(self._model(module), validation, **options)
            return evaluate_together(self._model(module), validation, self.processes, **options)

    def _panoptic_quality(self, module: TrainingModule, row: dict[str, float]) -> float:
        """Panoptic quality with the thresholds that the evaluation of boxes has just found, also as a figure of the epoch and the model."""
        assert self.validation is not None
        options, model = module.options, self._model(module)
        with self._paused():
            evaluation = evaluate_panoptic(
                model,
                self.validation,
                batch_size=evaluation_batch(options),
                workers=worker_count(options),
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

    def _write(self, module: TrainingModule, row: dict[str, float], *, saves: bool, last: bool) -> bool:
        """Writes log and metrics; with `saves` also the last model, and the best one so far. Returns whether it could.

        Raises:
            OutputError: a file cannot be written and this is the last epoch, or the run's folder is gone.
        """
        self._row = row
        if not self.processes.is_first:
            return True
        self._check_folder()
        self._unwritten = [each for each in self._unwritten if each["epoch"] != row["epoch"]] + [row]
        # Models without a state would be those of a run that cannot go on, in a folder that no other run may have.
        keeps = saves and (last or self.folder.state.is_file())
        try:
            self._write_rows()
            self._models.write(self._model(module), row, saves=keeps)
        except OutputError as problem:
            self._go_on_without(problem, last=last)
            return False
        self._is_complete = keeps or not saves
        return True

    def _write_what_waits(self) -> bool:
        """Writes rows and the best model that were only held so far, as `_write` does."""
        if not self.processes.is_first:
            return True
        self._check_folder()
        try:
            self._write_rows()
            self._models.write_held()
        except OutputError as problem:
            self._go_on_without(problem, last=False)
            return False
        return True

    def _write_rows(self) -> None:
        for row in self._unwritten:
            append_to_log(self.folder.log, row)
        self._unwritten = []


def _with_figures(card: ModelCard, validation: DetectionDataset, evaluation: Evaluation) -> ModelCard:
    figures = {name: value for name, value in evaluation.figures.items() if value is not None}
    return dataclasses.replace(with_best_thresholds(card, validation, evaluation), metrics=figures)


def evaluation_batch(options: TrainingOptions) -> int:
    """Number of images that are evaluated together: one, unless they are small."""
    return 8 if (options.short_side or 800) * (options.long_side or 1333) < 512 * 512 else 1
