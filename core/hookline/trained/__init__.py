"""Evaluations, predictions, importances of features and exports of saved runs. All load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline.engine.door import lazy

if TYPE_CHECKING:
    from hookline.trained.collecting import collect_sections
    from hookline.trained.comparing import Comparison
    from hookline.trained.evaluating import Evaluation, evaluate_run
    from hookline.trained.exportable import Description, Exportable, RawInput, RawOutput, TableForm
    from hookline.trained.exporting import (
        Exported,
        ExportFormat,
        Format,
        export_model,
        load_format,
        model_metadata,
    )
    from hookline.trained.loading import load_trained
    from hookline.trained.measuring.board import Board, BoardRow, compare_runs
    from hookline.trained.measuring.importance import FeatureImportance, Importance, measure_importance
    from hookline.trained.measuring.split_predictions import SplitPredictions, predict_split
    from hookline.trained.model import Trained
    from hookline.trained.portable import portable_files
    from hookline.trained.predicting import write_predictions
    from hookline.trained.raw.faults import Faults
    from hookline.trained.raw.onnx_model import OnnxModel, load_onnx
    from hookline.trained.snippet import Snippet, only_watches
    from hookline.trained.subject import Subject, call_model, subject_of
    from hookline.trained.target_file import check_target, written_whole
    from hookline.trained.weights import Weights, read_weights

_HOME = {
    "collecting": ("collect_sections",),
    "comparing": ("Comparison",),
    "evaluating": (
        "Evaluation",
        "evaluate_run",
    ),
    "exportable": (
        "Description",
        "Exportable",
        "RawInput",
        "RawOutput",
        "TableForm",
    ),
    "exporting": (
        "ExportFormat",
        "Exported",
        "Format",
        "export_model",
        "load_format",
        "model_metadata",
    ),
    "loading": ("load_trained",),
    "measuring.board": (
        "Board",
        "BoardRow",
        "compare_runs",
    ),
    "measuring.importance": (
        "FeatureImportance",
        "Importance",
        "measure_importance",
    ),
    "measuring.split_predictions": ("SplitPredictions", "predict_split"),
    "model": ("Trained",),
    "portable": ("portable_files",),
    "predicting": ("write_predictions",),
    "raw.faults": ("Faults",),
    "raw.onnx_model": (
        "OnnxModel",
        "load_onnx",
    ),
    "snippet": (
        "Snippet",
        "only_watches",
    ),
    "subject": (
        "Subject",
        "call_model",
        "subject_of",
    ),
    "target_file": ("check_target", "written_whole"),
    "weights": (
        "Weights",
        "read_weights",
    ),
}

__all__ = [
    "Board",
    "BoardRow",
    "Comparison",
    "Description",
    "Evaluation",
    "ExportFormat",
    "Exportable",
    "Exported",
    "Faults",
    "FeatureImportance",
    "Format",
    "Importance",
    "OnnxModel",
    "RawInput",
    "RawOutput",
    "Snippet",
    "SplitPredictions",
    "Subject",
    "TableForm",
    "Trained",
    "Weights",
    "call_model",
    "check_target",
    "collect_sections",
    "compare_runs",
    "evaluate_run",
    "export_model",
    "load_format",
    "load_onnx",
    "load_trained",
    "measure_importance",
    "model_metadata",
    "only_watches",
    "portable_files",
    "predict_split",
    "read_weights",
    "subject_of",
    "write_predictions",
    "written_whole",
]

if not TYPE_CHECKING:
    # A type checker that saw it would accept any name.
    __getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
