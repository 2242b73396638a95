"""How good a head is and how sure that is: accuracy, calibration, intervals, learning-curve law."""

from __future__ import annotations

from featbank.metrics.catalogue import (
    ClassScores,
    balanced_accuracy,
    cohen_kappa,
    confusion_matrix,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    macro_f1,
    most_confused,
    per_class_accuracy,
    per_class_scores,
    roc_auc,
    top_k_accuracy,
    top_k_hits,
)
from featbank.metrics.learning_curve import (
    Interval,
    PowerLaw,
    bootstrap_interval,
    draws_correlation,
    fit_power_law,
    mean_interval,
    paired_difference,
    share_of_folds,
)

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
