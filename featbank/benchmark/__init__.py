"""The rate of each stage of an extraction here, the floor that follows, and a plain script beside it."""

from __future__ import annotations

from featbank.benchmark.results import BenchmarkResult, Round, Spread
from featbank.benchmark.running import run_benchmark

__all__ = [
    "BenchmarkResult",
    "Round",
    "Spread",
    "run_benchmark",
]
