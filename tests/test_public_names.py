"""What `import featbank` offers: every name is there and says what it does; nothing is loaded before."""

from __future__ import annotations

import inspect
import subprocess
import sys

import featbank
import featbank.heads
import featbank.metrics


def test_every_public_name_is_there_and_documented() -> None:
    for name in featbank.__all__:
        found = getattr(featbank, name)
        assert name == "__version__" or (inspect.getdoc(found) or "").strip(), name
    assert dir(featbank) == sorted(featbank.__all__)


def test_heads_and_metrics_are_at_hand() -> None:
    classes = {name for name in featbank.heads.__all__ if name.endswith("Classifier")}
    assert {*classes, *featbank.metrics.__all__} <= set(featbank.__all__)


def test_the_package_itself_loads_nothing() -> None:
    code = "import sys, featbank; print(sorted(set(sys.modules) & {'numpy', 'torch', 'h5py', 'sklearn'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
