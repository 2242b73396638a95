"""Cores are what the scheduler and the container leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import threadpoolctl

from featbank._process import one_core_if, usable_cores


def group(root: Path, where: str, **files: str) -> None:
    folder = root / "sys/fs/cgroup" / where
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight cores, of which the scheduler leaves six."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/pod/inner\n")
    return tmp_path


def test_affinity_alone(root: Path) -> None:
    assert usable_cores(root) == 6


@pytest.mark.parametrize(
    ("where", "quota", "cores"),
    [
        ("", "250000 100000\n", 3),  # a container sees its own group as the root
        ("pod", "200000 100000\n", 2),
        ("pod/inner", "50000 100000\n", 1),
        ("pod/inner", "max 100000\n", 6),
        ("pod/inner", "900000 100000\n", 6),
        ("elsewhere", "100000 100000\n", 6),
        ("pod", "nonsense", 6),
    ],
)
def test_quota_of_version_2(root: Path, where: str, quota: str, cores: int) -> None:
    group(root, where, cpu__max=quota)
    assert usable_cores(root) == cores


@pytest.mark.parametrize(("quota", "cores"), [("150000", 2), ("-1", 6)])
def test_quota_of_version_1(root: Path, quota: str, cores: int) -> None:
    (root / "proc/self/cgroup").write_text("3:cpu,cpuacct:/docker/abc\n4:cpuset:/other\n")
    group(root, "cpu/docker/abc", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    group(root, "cpu/other", cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    assert usable_cores(root) == cores


def test_without_any_of_it(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) >= 1


def test_small_products_take_one_thread_and_the_number_is_put_back() -> None:
    def numbers() -> list[int]:
        return [one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]

    with one_core_if(True):
        inside = numbers()
    assert inside
    assert set(inside) == {1}
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = numbers()
        with one_core_if(False):
            assert numbers() == before
        with one_core_if(True):
            assert set(numbers()) == {1}
        assert numbers() == before
