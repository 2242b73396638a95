"""featbank: push each image dataset once through a pretrained backbone, answer everything else from the bank.

The public names are loaded when they are first touched, so that ``import featbank`` loads no torch.

From images to an answer: `extract` makes a bank, `open_bank` opens it, `fit_heads` fits heads on its cuts
into a run with figures (`run_sweep` without one), `open_run` opens a run, `compare` ranks cuts and heads,
`predict` classifies photographs, `write_report` writes a page, `run_study` does all of it from a TOML file.

Examples
--------
>>> import featbank
>>> featbank.cache_folder("cache").name
'cache'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Module -> the public names it holds.
_HOMES = {
    "_cache": "cache_folder",
    "backbones": "Backbone load_backbone truncate",
    "banks": "Bank BankStore export_bank import_bank open_archive open_bank",
    "benchmark": "BenchmarkResult run_benchmark",
    "datasets": "build_manifest open_dataset",
    "engines": "RayEngine",
    "errors": "FeatbankError",
    "exporting": "export_run",
    "extraction": "ExtractionResult ExtractionSettings extract repair_bank",
    "fitting": "FittedRun fit_heads",
    "heads": (
        "LinearSVMClassifier MLPClassifier NearestMeanClassifier NeighborsClassifier RidgeClassifier "
        "SoftmaxClassifier TailClassifier load_head save_head"
    ),
    "inspection": (
        "ActivationsDisplay BesideDisplay DreamDisplay FiltersDisplay MistakesDisplay OcclusionDisplay "
        "find_suspects"
    ),
    "metrics": (
        "ClassScores Interval PowerLaw balanced_accuracy bootstrap_interval cohen_kappa confusion_matrix "
        "draws_correlation expected_calibration_error fit_power_law fit_temperature log_loss macro_f1 "
        "mean_interval most_confused paired_difference per_class_accuracy per_class_scores roc_auc "
        "share_of_folds top_k_accuracy top_k_hits"
    ),
    "pipeline": "Study StudyResult load_study run_study",
    "plots": (
        "ConfusionDisplay CurveDisplay CutsDisplay HistoryDisplay ScoresDisplay TemperatureDisplay "
        "TimesDisplay"
    ),
    "prediction": "Prediction RunClassifier predict",
    "report": "write_report",
    "runs": "Answer Run answer_of export_run_folder open_run",
    "sampling": "draw_nested",
    "training": "Recipe train",
    "sweep": "Comparison CurvePoint Fit LearningCurve SweepResult SweepSettings compare run_sweep",
}
_PUBLIC = {name: f"featbank.{module}" for module, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_PUBLIC)]

if TYPE_CHECKING:
    from featbank._cache import cache_folder as cache_folder
    from featbank.backbones import Backbone as Backbone
    from featbank.backbones import load_backbone as load_backbone
    from featbank.backbones import truncate as truncate
    from featbank.banks import Bank as Bank
    from featbank.banks import BankStore as BankStore
    from featbank.banks import export_bank as export_bank
    from featbank.banks import import_bank as import_bank
    from featbank.banks import open_archive as open_archive
    from featbank.banks import open_bank as open_bank
    from featbank.benchmark import BenchmarkResult as BenchmarkResult
    from featbank.benchmark import run_benchmark as run_benchmark
    from featbank.datasets import build_manifest as build_manifest
    from featbank.datasets import open_dataset as open_dataset
    from featbank.engines import RayEngine as RayEngine
    from featbank.errors import FeatbankError as FeatbankError
    from featbank.exporting import export_run as export_run
    from featbank.extraction import ExtractionResult as ExtractionResult
    from featbank.extraction import ExtractionSettings as ExtractionSettings
    from featbank.extraction import extract as extract
    from featbank.extraction import repair_bank as repair_bank
    from featbank.fitting import FittedRun as FittedRun
    from featbank.fitting import fit_heads as fit_heads
    from featbank.heads import LinearSVMClassifier as LinearSVMClassifier
    from featbank.heads import MLPClassifier as MLPClassifier
    from featbank.heads import NearestMeanClassifier as NearestMeanClassifier
    from featbank.heads import NeighborsClassifier as NeighborsClassifier
    from featbank.heads import RidgeClassifier as RidgeClassifier
    from featbank.heads import SoftmaxClassifier as SoftmaxClassifier
    from featbank.heads import TailClassifier as TailClassifier
    from featbank.heads import load_head as load_head
    from featbank.heads import save_head as save_head
    from featbank.inspection import ActivationsDisplay as ActivationsDisplay
    from featbank.inspection import BesideDisplay as BesideDisplay
    from featbank.inspection import DreamDisplay as DreamDisplay
    from featbank.inspection import FiltersDisplay as FiltersDisplay
    from featbank.inspection import MistakesDisplay as MistakesDisplay
    from featbank.inspection import OcclusionDisplay as OcclusionDisplay
    from featbank.inspection import find_suspects as find_suspects
    from featbank.metrics import ClassScores as ClassScores
    from featbank.metrics import Interval as Interval
    from featbank.metrics import PowerLaw as PowerLaw
    from featbank.metrics import balanced_accuracy as balanced_accuracy
    from featbank.metrics import bootstrap_interval as bootstrap_interval
    from featbank.metrics import cohen_kappa as cohen_kappa
    from featbank.metrics import confusion_matrix as confusion_matrix
    from featbank.metrics import draws_correlation as draws_correlation
    from featbank.metrics import expected_calibration_error as expected_calibration_error
    from featbank.metrics import fit_power_law as fit_power_law
    from featbank.metrics import fit_temperature as fit_temperature
    from featbank.metrics import log_loss as log_loss
    from featbank.metrics import macro_f1 as macro_f1
    from featbank.metrics import mean_interval as mean_interval
    from featbank.metrics import most_confused as most_confused
    from featbank.metrics import paired_difference as paired_difference
    from featbank.metrics import per_class_accuracy as per_class_accuracy
    from featbank.metrics import per_class_scores as per_class_scores
    from featbank.metrics import roc_auc as roc_auc
    from featbank.metrics import share_of_folds as share_of_folds
    from featbank.metrics import top_k_accuracy as top_k_accuracy
    from featbank.metrics import top_k_hits as top_k_hits
    from featbank.pipeline import Study as Study
    from featbank.pipeline import StudyResult as StudyResult
    from featbank.pipeline import load_study as load_study
    from featbank.pipeline import run_study as run_study
    from featbank.plots import ConfusionDisplay as ConfusionDisplay
    from featbank.plots import CurveDisplay as CurveDisplay
    from featbank.plots import CutsDisplay as CutsDisplay
    from featbank.plots import HistoryDisplay as HistoryDisplay
    from featbank.plots import ScoresDisplay as ScoresDisplay
    from featbank.plots import TemperatureDisplay as TemperatureDisplay
    from featbank.plots import TimesDisplay as TimesDisplay
    from featbank.prediction import Prediction as Prediction
    from featbank.prediction import RunClassifier as RunClassifier
    from featbank.prediction import predict as predict
    from featbank.report import write_report as write_report
    from featbank.runs import Answer as Answer
    from featbank.runs import Run as Run
    from featbank.runs import answer_of as answer_of
    from featbank.runs import export_run_folder as export_run_folder
    from featbank.runs import open_run as open_run
    from featbank.sampling import draw_nested as draw_nested
    from featbank.sweep import Comparison as Comparison
    from featbank.sweep import CurvePoint as CurvePoint
    from featbank.sweep import Fit as Fit
    from featbank.sweep import LearningCurve as LearningCurve
    from featbank.sweep import SweepResult as SweepResult
    from featbank.sweep import SweepSettings as SweepSettings
    from featbank.sweep import compare as compare
    from featbank.sweep import run_sweep as run_sweep
    from featbank.training import Recipe as Recipe
    from featbank.training.train import train as train


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'featbank' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
