"""Studies: an experiment as one TOML file, run from the cache, beside published figures where there are any.

``load_study`` reads a file and names all its faults at once; ``run_study`` extracts what is missing, fits
what was not fitted, draws, compares and writes the pages.
"""

from __future__ import annotations

from featbank.pipeline.comparing import Verdict
from featbank.pipeline.planning import ExperimentCost, study_costs
from featbank.pipeline.reading import TEMPLATE, load_study, study_names, study_title
from featbank.pipeline.running import ExperimentRun, StudyResult, TrainingRun, run_study
from featbank.pipeline.study import (
    CHECKS,
    BackboneChoice,
    Claim,
    Data,
    Experiment,
    Figure,
    Study,
    Sweep,
    TestData,
    Training,
)

__all__ = [
    "CHECKS",
    "TEMPLATE",
    "BackboneChoice",
    "Claim",
    "Data",
    "Experiment",
    "ExperimentCost",
    "ExperimentRun",
    "Figure",
    "Study",
    "StudyResult",
    "Sweep",
    "TestData",
    "Training",
    "TrainingRun",
    "Verdict",
    "load_study",
    "run_study",
    "study_costs",
    "study_names",
    "study_title",
]
