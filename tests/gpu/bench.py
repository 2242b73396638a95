"""What every step has: where it works, the device, a clock, and a line for each thing that was seen."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import driving


class MissingError(Exception):
    """What a part of a step needs is not here."""


class Note(Protocol):
    """Keeps what was seen; `ok` is False where that is wrong."""

    def __call__(self, value: Any, unit: str = "", *, ok: bool | None = None) -> None: ...


@dataclass(frozen=True)
class Bench:
    """Where step `number` works and notes; `toy` makes everything small enough for the CPU of a test."""

    number: int
    out: Path
    work: Path
    toy: bool
    images: Path | None

    @property
    def device(self) -> Any:
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def on_card(self) -> bool:
        return str(self.device) == "cuda"

    def size(self, full: int, toy: int) -> int:
        return toy if self.toy else full

    @contextlib.contextmanager
    def part(self, name: str, goal: Any = None) -> Iterator[Note]:
        """Measure one thing; where it fails, or lacks something, that is noted and the next one runs.

        `goal` is what the review of the GPU path wanted, or said it would be.
        """

        def note(value: Any, unit: str = "", *, ok: bool | None = None) -> None:
            value = float(f"{value:.4g}") if isinstance(value, float) else value
            line = {"step": self.number, "name": name, "value": value, "unit": unit, "goal": goal, "ok": ok}
            driving.append(self.out / "results.jsonl", {k: one for k, one in line.items() if one is not None})

        try:
            yield note
        except MissingError as error:
            note(f"skipped: {error}")
        except Exception as error:  # noqa: BLE001 - noted, and the script ends with 1
            note(" ".join(f"{type(error).__name__}: {error}".split())[:300], ok=False)

    def seconds(self, call: Callable[[], Any], n: int = 1) -> float:
        """Return the seconds that `n` calls take, the device waited for at both ends."""
        import torch

        if self.on_card:
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(n):
            call()
        if self.on_card:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def rate(self, call: Callable[[], Any], each: float, for_s: float = 0.7) -> float:
        """Return `each` times the calls per second, warm."""
        self.seconds(call)
        n = max(2, round(self.size(1, 0) * for_s / max(self.seconds(call), 1e-6)))
        return each * n / self.seconds(call, n)

    def need(self, *modules: str) -> None:
        """Raise `MissingError` for packages that are not installed."""
        missing = [one for one in modules if importlib.util.find_spec(one) is None]
        if missing:
            raise MissingError(f"no {', '.join(missing)}")

    def need_card(self) -> None:
        if not self.on_card:
            raise MissingError("no card")

    def need_compiler(self) -> None:
        if self.on_card:
            self.need("triton")
        elif shutil.which(os.environ.get("CXX", "g++")) is None:
            raise MissingError("no C++ compiler")
