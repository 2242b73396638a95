"""How many cores this process may use, and linear algebra on one of them."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

from featbank._lean_imports import import_scipy

__all__ = ["one_core_if", "usable_cores"]


def one_core_if(small: bool) -> AbstractContextManager[Any]:
    """Have numpy and scipy multiply and factorise on one thread inside the block, if what they do is `small`.

    Their threads wait for each other in a loop. Beside another program, on the core that it has taken, that
    is twenty times as long as one thread would take (512 rows of 1,280 columns, 32 classes, two cores: 3.1 s
    for a fit, instead of 0.16); alone, several gain nothing where there is little to do.
    """
    return _libraries().limit(limits=1, user_api="blas") if small else nullcontext()


@cache
def _libraries() -> Any:
    import_scipy()
    import scipy.linalg  # noqa: F401 - it has a library of its own, which must be there to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy, at least 1.

    Parameters
    ----------
    root : pathlib.Path, default=Path("/")
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    int
        The cores it is bound to, or fewer where its control group, or one around it, has a quota of processor
        time (version 2: ``cpu.max``; version 1: ``cpu.cfs_quota_us``), as containers have; rounded up.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _group_folders(root) if (quota := _quota(folder)) is not None]
    return max(1, min([cores, *(-int(-quota // 1) for quota in quotas)]))


def _group_folders(root: Path) -> list[Path]:
    """List the folders of the groups this process is in; a container sees its own as the root."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    mounts = root / "sys/fs/cgroup"
    found = [mounts, mounts / "cpu"]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            base = mounts
        elif "cpu" in controllers.split(","):
            base = mounts / "cpu"
        else:
            continue
        parts = [one for one in path.split("/") if one not in ("", "..")]
        found += [base.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    return found


def _quota(folder: Path) -> float | None:
    """Return the cores' worth of time a group may use, None where it has no limit."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        limit = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period_us = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return limit / period_us if limit > 0 else None
    return None
