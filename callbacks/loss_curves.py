"""Curves of a run as one picture in its folder."""

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np

from callbacks.run_picture import as_warning
from sslam.run_folder import required_run_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRETRAINING_PANELS = {
    "Patch loss": {"train/patch_loss": "training", "val/patch_loss": "held out"},
    "CLS loss": {"train/cls_loss": "training", "val/cls_loss": "held out"},
    "Source retention loss": {"train/source_retention_loss": "training", "val/source_retention_loss": "held out"},
    "Source retention, CLS loss": {
        "train/source_retention_cls_loss": "training",
        "val/source_retention_cls_loss": "held out",
    },
    "Clips told apart": {"train/clip_contrast_loss": "training", "val/clip_contrast_loss": "held out"},
    "Patch loss in units of the position's; below 1 is content": {"train/patch_loss_above_position": ""},
    "Share of the targets' variance that position explains": {"train/position_share": ""},
    "Standard deviation": {"train/target_std": "targets", "train/prediction_std": "predictions"},
    "Distance of student and teacher": {"train/ema_distance": ""},
    "Learning rate": {"train/learning_rate": ""},
    "1 - EMA decay": {"train/ema_decay": ""},
}
ONLINE_PANELS = {  # of OnlineProbe, beside those of any method
    f"Online probe, {title}": {
        f"online/knn_{score}": "nearest neighbours",
        f"online/probe_{score}": "linear probe",
        f"online/random_knn_{score}": "nearest neighbours, random weights",
        f"online/random_probe_{score}": "linear probe, random weights",
    }
    for score, title in {"accuracy": "accuracy", "map": "mean average precision"}.items()
}
MAX_POINTS = 4000
NOW_AND_THEN = ("val/", "online/")  # of evaluations during the run: points at their steps, of which none is left out


class LossCurves(pl.Callback):
    """Writes ``loss_curves.png`` into the run folder at every checkpoint and at the end.

    Values are taken at the trainer's ``log_every_n_steps``, are part of the checkpoint (so that a resumed run draws
    the whole curve) and are thinned out to at most 4000 points. Those of a validation are points at its step.

    Args:
        panels: Titles of the panels, and the logged values that are drawn in each with their legend, such as ``{"Loss":
            {"train/loss": "training", "val/loss": "validation"}}``; None for those of SSLAM. Values that were never
            logged are left out.
    """

    def __init__(self, panels: dict[str, dict[str, str]] | None = None) -> None:
        self.panels = (PRETRAINING_PANELS if panels is None else panels) | ONLINE_PANELS
        keys = [key for curves in self.panels.values() for key in curves]
        self.steps: list[int] = []
        self.values: dict[str, list[float]] = {key: [] for key in keys if not key.startswith(NOW_AND_THEN)}
        self.points: dict[str, dict[int, float]] = {key: {} for key in keys if key.startswith(NOW_AND_THEN)}
        self.stride = 1  # in units of log_every_n_steps
        self._stage_ends: dict[int, str] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._folder = required_run_folder(trainer, self)
        stages = getattr(pl_module, "stages", [])
        ends = accumulate(stage.steps for stage in stages)
        self._stage_ends = {end: stage.name for end, stage in zip(ends, stages, strict=True)}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        every = self.stride * max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if step % every == 0 and step > (self.steps[-1] if self.steps else 0):
            self.add(step, {key: float(value) for key, value in trainer.callback_metrics.items() if key in self.values})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            found = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
            self.add_points(trainer.global_step, found)

    def add_points(self, step: int, values: dict[str, float]) -> None:
        """Keep what an evaluation of the weights after ``step`` optimizer steps has found."""
        for key, points in self.points.items():
            if key in values:
                points[step] = values[key]

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append a point; nan where a value is not logged (a stage without source retention)."""
        self.steps.append(step)
        for key, series in self.values.items():
            series.append(values.get(key, float("nan")))
        if len(self.steps) >= MAX_POINTS:
            self.stride *= 2
            self.steps = self.steps[1::2]
            self.values = {key: series[1::2] for key, series in self.values.items()}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.draw(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.draw(trainer)

    def series(self) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of all that was ever logged."""
        present = {
            key: [(step, value) for step, value in zip(self.steps, values, strict=True) if not np.isnan(value)]
            for key, values in self.values.items()
        } | {key: list(points.items()) for key, points in self.points.items()}
        return {key: ([s for s, _ in pairs], [v for _, v in pairs]) for key, pairs in present.items() if pairs}

    def draw(self, trainer: pl.Trainer) -> None:
        """Write the picture as far as the run has come, on rank 0."""
        series = self.series()
        if trainer.is_global_zero and series:
            with as_warning("The picture of the loss curves"):
                self._folder.mkdir(parents=True, exist_ok=True)
                figure = draw_curves(self.panels, series, self._stage_ends)
                figure.savefig(self._folder / "loss_curves.png", dpi=110)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values, "points": self.points, "stride": self.stride}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = list(state_dict["steps"])
        # Panels may have been added since.
        unknown = [float("nan")] * len(self.steps)
        self.values = {key: list(state_dict["values"].get(key, unknown)) for key in self.values}
        self.points = {key: dict(state_dict.get("points", {}).get(key, {})) for key in self.points}
        self.stride = state_dict["stride"]


EXACT = (
    "train/learning_rate",
    "train/ema_decay",
    *NOW_AND_THEN,
)  # without noise, which a running mean would only delay


def draw_curves(
    all_panels: dict[str, dict[str, str]],
    series: dict[str, tuple[list[int], list[float]]],
    stage_ends: dict[int, str],
) -> "Figure":
    """One panel for each group of values, over optimizer steps, with the raw values pale and a running mean on top.

    Args:
        all_panels: Titles of the panels, and in each the keys and their legends.
        series: Optimizer steps, ascending, and values of each log key that has any.
        stage_ends: Last optimizer step of each stage, with its name.
    """
    panels = [
        (title, {key: label for key, label in curves.items() if key in series}) for title, curves in all_panels.items()
    ]
    panels = [(title, curves) for title, curves in panels if curves]
    last_step = max(steps[-1] for steps, _ in series.values())
    from matplotlib.figure import Figure  # takes a second

    figure = Figure(figsize=(13, 2.6 * ((len(panels) + 1) // 2)), layout="constrained")
    names = [f"stage {i}: {name} (to step {end})" for i, (end, name) in enumerate(stage_ends.items(), start=1)]
    figure.suptitle(", ".join(names), fontsize=10)
    axes = figure.subplots((len(panels) + 1) // 2, 2, squeeze=False).flatten()
    for axis, (title, curves) in zip(axes, panels, strict=False):
        for number, (key, label) in enumerate(curves.items()):
            steps, values = map(np.asarray, series[key])
            if key == "train/ema_decay":
                values = 1 - values  # .9998 and .99999 cannot be told apart otherwise
            style = {"color": f"C{number}", "label": label, "marker": "o" if key.startswith(NOW_AND_THEN) else None}
            style["linestyle"] = ":" if key.startswith("online/random_") else "-"
            _draw_series(axis, steps, values, style, is_noisy=not key.startswith(EXACT))
        if "EMA decay" in title:
            axis.set_yscale("log")
        axis.set_title(title, loc="left", fontsize=10)
        axis.grid(alpha=0.25)
        if title == "Standard deviation":
            axis.set_ylim(bottom=0)  # collapse is down there
        if any(key.endswith("_above_position") for key in curves):
            axis.axhline(1, color="0.3", linestyle=":", linewidth=1)  # the mean target of each place
        if len(curves) > 1:
            axis.legend(fontsize=8)
        for end in stage_ends:
            if end < last_step:
                axis.axvline(end, color="0.3", linestyle="--", linewidth=1)
        axis.set_xlim(0, 1.01 * last_step)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(panels) - 2) : len(panels)]:
        axis.set_xlabel("optimizer step")
    return figure


def _draw_series(axis: "Axes", steps: np.ndarray, values: np.ndarray, style: dict[str, Any], is_noisy: bool) -> None:
    window = max(1, len(values) // 50) if is_noisy else 1
    # The mean over the last `window` points; over fewer at the start.
    total = np.cumsum(np.concatenate([np.zeros(1), values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    axis.plot(steps, values, color=style["color"], alpha=0.25, linewidth=0.8)
    mean = (total[end] - total[start]) / (end - start)
    axis.plot(steps, mean, linewidth=1.5, markersize=4, **style)
