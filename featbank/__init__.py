"""featbank: push each image dataset once through a pretrained backbone, answer everything else from the bank.

The public names are loaded when they are first touched, so that ``import featbank`` loads no torch.

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

#: Public name -> module that holds it.
_PUBLIC = {
    "ActivationsDisplay": "featbank.inspection",
    "Backbone": "featbank.backbones",
    "Bank": "featbank.banks",
    "BankStore": "featbank.banks",
    "ConfusionDisplay": "featbank.plots",
    "CurveDisplay": "featbank.plots",
    "CutsDisplay": "featbank.plots",
    "DreamDisplay": "featbank.inspection",
    "ExtractionResult": "featbank.extraction",
    "ExtractionSettings": "featbank.extraction",
    "FeatbankError": "featbank.errors",
    "FiltersDisplay": "featbank.inspection",
    "HistoryDisplay": "featbank.plots",
    "MLPClassifier": "featbank.heads",
    "MistakesDisplay": "featbank.inspection",
    "OcclusionDisplay": "featbank.inspection",
    "PretrainSettings": "featbank.pretraining",
    "Run": "featbank.runs",
    "ScoresDisplay": "featbank.plots",
    "SoftmaxClassifier": "featbank.heads",
    "SweepResult": "featbank.sweep",
    "TemperatureDisplay": "featbank.plots",
    "TimesDisplay": "featbank.plots",
    "BenchmarkResult": "featbank.benchmark",
    "build_manifest": "featbank.datasets",
    "cache_folder": "featbank._cache",
    "draw_nested": "featbank.sampling",
    "export_bank": "featbank.banks",
    "export_run": "featbank.exporting",
    "export_run_folder": "featbank.runs",
    "extract": "featbank.extraction",
    "fit_heads": "featbank.fitting",
    "import_bank": "featbank.banks",
    "load_backbone": "featbank.backbones",
    "open_archive": "featbank.banks",
    "open_bank": "featbank.banks",
    "open_dataset": "featbank.datasets",
    "open_run": "featbank.runs",
    "predict": "featbank.prediction",
    "pretrain": "featbank.pretraining",
    "repair_bank": "featbank.extraction",
    "run_benchmark": "featbank.benchmark",
    "run_sweep": "featbank.sweep",
    "truncate": "featbank.backbones",
    "write_report": "featbank.report",
}

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
    from featbank.errors import FeatbankError as FeatbankError
    from featbank.exporting import export_run as export_run
    from featbank.extraction import ExtractionResult as ExtractionResult
    from featbank.extraction import ExtractionSettings as ExtractionSettings
    from featbank.extraction import extract as extract
    from featbank.extraction import repair_bank as repair_bank
    from featbank.fitting import fit_heads as fit_heads
    from featbank.heads import MLPClassifier as MLPClassifier
    from featbank.heads import SoftmaxClassifier as SoftmaxClassifier
    from featbank.inspection import ActivationsDisplay as ActivationsDisplay
    from featbank.inspection import DreamDisplay as DreamDisplay
    from featbank.inspection import FiltersDisplay as FiltersDisplay
    from featbank.inspection import MistakesDisplay as MistakesDisplay
    from featbank.inspection import OcclusionDisplay as OcclusionDisplay
    from featbank.plots import ConfusionDisplay as ConfusionDisplay
    from featbank.plots import CurveDisplay as CurveDisplay
    from featbank.plots import CutsDisplay as CutsDisplay
    from featbank.plots import HistoryDisplay as HistoryDisplay
    from featbank.plots import ScoresDisplay as ScoresDisplay
    from featbank.plots import TemperatureDisplay as TemperatureDisplay
    from featbank.plots import TimesDisplay as TimesDisplay
    from featbank.prediction import predict as predict
    from featbank.pretraining import PretrainSettings as PretrainSettings
    from featbank.pretraining.pretrain import pretrain as pretrain
    from featbank.report import write_report as write_report
    from featbank.runs import Run as Run
    from featbank.runs import export_run_folder as export_run_folder
    from featbank.runs import open_run as open_run
    from featbank.sampling import draw_nested as draw_nested
    from featbank.sweep import SweepResult as SweepResult
    from featbank.sweep import run_sweep as run_sweep


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'featbank' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
