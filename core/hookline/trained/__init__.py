"""Evaluations, predictions, importances of features and exports of saved runs. All load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline.engine.door import lazy

if TYPE_CHECKING:
    from hookline.trained.collecting import collect_sections
    from hookline.trained.evaluating import Evaluation, evaluate_run
    from hookline.trained.exportable import Exportable, RawInput, RawOutput, TableForm
    from hookline.trained.exporting import Exported, export_model
    from hookline.trained.importance import FeatureImportance, Importance, measure_importance
    from hookline.trained.loading import load_trained
    from hookline.trained.model import Trained
    from hookline.trained.predicting import write_predictions
    from hookline.trained.raw.faults import Faults
    from hookline.trained.raw.onnx_model import OnnxModel, load_onnx
    from hookline.trained.target_file import check_target, written_whole
    from hookline.trained.weights import Weights, read_weights

_HOME = {
    "collecting": ("collect_sections",),
    "evaluating": (
        "Evaluation",
        "evaluate_run",
    ),
    "exportable": (
        "Exportable",
        "RawInput",
        "RawOutput",
        "TableForm",
    ),
    "exporting": (
        "Exported",
        "export_model",
    ),
    "importance": (
        "FeatureImportance",
        "Importance",
        "measure_importance",
    ),
    "loading": ("load_trained",),
    "model": ("Trained",),
    "predicting": ("write_predictions",),
    "raw.faults": ("Faults",),
    "raw.onnx_model": (
        "OnnxModel",
        "load_onnx",
    ),
    "target_file": ("check_target", "written_whole"),
    "weights": (
        "Weights",
        "read_weights",
    ),
}

__all__ = [
    "Evaluation",
    "Exportable",
    "Exported",
    "Faults",
    "FeatureImportance",
    "Importance",
    "OnnxModel",
    "RawInput",
    "RawOutput",
    "TableForm",
    "Trained",
    "Weights",
    "check_target",
    "collect_sections",
    "evaluate_run",
    "export_model",
    "load_onnx",
    "load_trained",
    "measure_importance",
    "read_weights",
    "write_predictions",
    "written_whole",
]

if not TYPE_CHECKING:
    # A type checker that saw it would accept any name.
    __getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
