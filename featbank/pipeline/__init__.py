"""Studies: an experiment as one TOML file, run from the cache, beside published figures where there are any.

``load_study`` reads a file and names all its faults at once; ``run_study`` extracts what is missing, fits
what was not fitted, draws, compares and writes the pages.
"""

from __future__ import annotations

from featbank.pipeline.claims import CHECKS, Verdict, check_claim
from featbank.pipeline.comparing import computed_differences, measure
from featbank.pipeline.costing import ExperimentCost, study_costs
from featbank.pipeline.opening import Opened, bank_name, open_images
from featbank.pipeline.planning import Group, Planned, plan_experiments
from featbank.pipeline.reading import TEMPLATE, find_study, load_study, study_names
from featbank.pipeline.running import ExperimentRun, StudyResult, run_study
from featbank.pipeline.study import (
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
from featbank.pipeline.training import TrainingRun, run_training

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
    "Group",
    "Opened",
    "Planned",
    "Study",
    "StudyResult",
    "Sweep",
    "TestData",
    "Training",
    "TrainingRun",
    "Verdict",
    "bank_name",
    "check_claim",
    "computed_differences",
    "find_study",
    "load_study",
    "measure",
    "open_images",
    "plan_experiments",
    "run_study",
    "run_training",
    "study_costs",
    "study_names",
]
