"""How good a head is and how sure that is: accuracy, calibration, intervals, learning-curve law."""

from __future__ import annotations

from featbank.metrics.accuracy import (
    ClassScores,
    balanced_accuracy,
    cohen_kappa,
    confusion_matrix,
    macro_f1,
    most_confused,
    per_class_accuracy,
    per_class_scores,
    roc_auc,
    top_k_accuracy,
    top_k_hits,
)
from featbank.metrics.calibration import expected_calibration_error, fit_temperature, log_loss
from featbank.metrics.intervals import (
    Interval,
    bootstrap_interval,
    draws_correlation,
    mean_interval,
    paired_difference,
    share_of_folds,
)
from featbank.metrics.power_law import PowerLaw, fit_power_law

__all__ = [
    "ClassScores",
    "Interval",
    "PowerLaw",
    "balanced_accuracy",
    "bootstrap_interval",
    "cohen_kappa",
    "confusion_matrix",
    "draws_correlation",
    "expected_calibration_error",
    "fit_power_law",
    "fit_temperature",
    "log_loss",
    "macro_f1",
    "mean_interval",
    "most_confused",
    "paired_difference",
    "per_class_accuracy",
    "per_class_scores",
    "roc_auc",
    "share_of_folds",
    "top_k_accuracy",
    "top_k_hits",
]
