"""Curves of a training while it goes on: a csv file, TensorBoard, or MLflow."""

from pathlib import Path

from fewshot.curves.base import Curves
from fewshot.curves.files import CsvCurves, TensorBoardCurves, writer_class
from fewshot.curves.mlflow import MlflowCurves, connected
from fewshot.models import ModelSpec

__all__ = ["KINDS", "Curves", "check_curves", "curves_of"]

KINDS = ("csv", "tensorboard", "mlflow")


def curves_of(kind: str, folder: Path | None, step: int, spec: ModelSpec | None = None) -> Curves:
    """The curves of a training that begins after `step` steps, in the folder of its checkpoints.

    kind: one of KINDS, or '' for none; without a folder there are none. spec: of the model that trains.
    """
    if not kind or folder is None:
        return Curves()
    if kind == "mlflow":
        return MlflowCurves(folder, step, spec)
    return CsvCurves(folder, step) if kind == "csv" else TensorBoardCurves(folder, step)


def check_curves(kind: str) -> None:
    """InputError if curves of this kind need a package that is not installed, or a server that does not answer."""
    if kind == "tensorboard":
        writer_class()
    elif kind == "mlflow":
        connected()
