"""Scikit-learn in the same process: it works after every call of ours that decodes images, and beside it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from world import make_images


def uses_of_sklearn() -> list[str]:
    """Return what fails of the calls that copy the filters of warnings to threads and processes."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(24, 3)), np.arange(24) % 2
    uses: dict[str, Callable[[], Any]] = {
        "cross_val_score": lambda: cross_val_score(LogisticRegression(), X, y, cv=2),
        "GridSearchCV": lambda: GridSearchCV(LogisticRegression(), {"C": [1, 2]}, cv=2).fit(X, y),
        "RandomForestClassifier": lambda: RandomForestClassifier(4, n_jobs=2).fit(X, y).predict(X),
    }
    failed = []
    for name, use in uses.items():
        try:
            use()
        except Exception as error:  # noqa: BLE001 - counted
            failed.append(f"{name}: {error!r}")
    return failed


def calls(folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what decodes images, in an order in which each finds what it needs."""
    import featbank
    import featbank.datasets
    from featbank.cli import main

    data, cache = folder / "images", folder / "cache"
    one = data / "red" / "001.png"

    def command(*words: str) -> Callable[[], None]:
        def run() -> None:
            with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
                main([*words, "--cache-dir", str(cache)])

        return run

    return {
        "decode_image": lambda: featbank.datasets.decode_image(one.read_bytes()),
        "extract": lambda: featbank.extract(
            data, backbone="minivgg", cuts=["fc7"], precision="float32", cache_dir=cache, workers=1
        ),
        "fit_heads": lambda: featbank.fit_heads(
            next((cache / "banks" / "images").iterdir()),
            heads=["knn"],
            samples_per_class="2",
            repeats=1,
            cache_dir=cache,
        ),
        "predict": lambda: featbank.predict(None, [one], cache_dir=cache),
        "write_report": lambda: featbank.write_report(cache_dir=cache),
        "show mistakes": command("show", "mistakes"),
        "show occlusion": command("show", "occlusion", "last", str(one)),
        "train": lambda: featbank.train(
            data, network="minivgg", output=folder / "x", recipe={"epochs": 1, "batch_size": 8}
        ),
    }


def while_decoding(image: bytes) -> list[str]:
    """Return what fails of scikit-learn while two threads decode."""
    from featbank.datasets import decode_image

    stop = threading.Event()

    def decode() -> None:
        while not stop.is_set():
            decode_image(image)

    threads = [threading.Thread(target=decode) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        return uses_of_sklearn()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def main() -> int:
    """Print the result as JSON."""

    folder = Path(tempfile.mkdtemp(prefix="featbank-faults-"))
    os.environ["OMP_NUM_THREADS"] = "1"
    bad, n_calls, changed = [], 0, 0
    try:
        make_images(folder / "images", 24)
        (folder / "images" / "blue" / "broken.png").unlink()  # training takes none that is damaged
        bad += [f"before: {one}" for one in uses_of_sklearn()]
        for name, call in calls(folder).items():
            filters = list(warnings.filters)
            try:
                call()
            except Exception:  # noqa: BLE001 - counted
                bad.append(f"{name}: {traceback.format_exc()[-800:]}")
            changed += [one for one in warnings.filters if one not in filters and "PIL" in repr(one)] != []
            changed += any(type(one[3]).__module__.startswith("featbank") for one in warnings.filters)
            bad += [f"after {name}: {one}" for one in uses_of_sklearn()]
            n_calls += 1
        bad += [f"beside it: {one}" for one in while_decoding((folder / "images/red/001.png").read_bytes())]
    finally:
        shutil.rmtree(folder)
    failed = sum(one.startswith(("after", "beside")) for one in bad)
    figures = {
        "calls that decode": n_calls,
        "estimators that failed": failed,
        "filters changed": int(changed),
    }
    sys.stdout.write(json.dumps({"figures": figures, "bad": bad[:5], "ok": not bad and not changed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
