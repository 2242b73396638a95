"""The rate of each stage of an extraction here, the floor that follows, and a plain script beside it."""

from __future__ import annotations

from featbank.benchmark._stages import decode_rate, write_rate
from featbank.benchmark.results import BenchmarkResult, Round, Spread, floor_rate
from featbank.benchmark.running import LIMIT, run_benchmark

__all__ = [
    "LIMIT",
    "BenchmarkResult",
    "Round",
    "Spread",
    "decode_rate",
    "floor_rate",
    "run_benchmark",
    "write_rate",
]
