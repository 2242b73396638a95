"""Packages come without what takes most of their start and is not used; they work all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torchvision")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOADED = "print('torch._dynamo' in sys.modules, 'sympy' in sys.modules)"


@pytest.mark.slow
def test_torchvision_does_not_bring_the_compiler() -> None:
    assert run(f"import sys, torchvision; {LOADED}") == "True True", "then featbank._process can go"
    code = "import sys; from featbank._process import import_torchvision as go; go(); import torchvision;"
    assert run(code + LOADED) == "False False"


@pytest.mark.slow
def test_a_network_is_built_cut_and_run_without_it() -> None:
    code = """
import sys
import torch
from featbank.backbones import load_backbone, truncate
network = truncate(load_backbone("mobilenet_v2", weights="random"), ["avgpool", "logits"])
with torch.inference_mode():
    features = network(torch.zeros(1, 3, 224, 224))
assert {name: tuple(one.shape[1:]) for name, one in features.items()} == network.cut_shapes
"""
    assert run(code + LOADED).splitlines()[-1] == "False False"


@pytest.mark.slow
def test_what_needs_the_compiler_gets_it() -> None:
    code = """
import sys
from featbank._process import import_torchvision
import_torchvision()
import torch, torchvision
boxes = torch.tensor([[0, 0.0, 0, 4, 4]])
print(tuple(torchvision.ops.roi_align(torch.rand(1, 3, 8, 8), boxes, 2).shape))
from torchvision.ops import roi_align
print(sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu") in (True, False))
import torch._dynamo
print(torch._dynamo.config.__name__, hasattr(torch._dynamo.utils, "counters"))
print(torch.compile(torch.nn.Linear(2, 2), backend="eager")(torch.zeros(1, 2)).shape[1])
"""
    assert run(code).splitlines() == ["(1, 3, 2, 2)", "True", "torch._dynamo.config True", "2"]


@pytest.mark.slow
def test_anything_else_asked_of_it_is_the_real_thing() -> None:
    code = """
import sys
from featbank import _process
names = _process._DYNAMO
sys.modules.update({name: _process._StandIn(name, names) for name in names})
import torch
from torch._dynamo.utils import counters
print(type(counters).__name__, type(sys.modules["torch._dynamo"]).__name__)
"""
    assert run(code) == "defaultdict module"


def test_heads_come_without_scipy_stats_which_works_afterwards() -> None:
    code = """
import sys
from featbank.heads import SoftmaxClassifier
print("scipy.stats" in sys.modules)
import scipy
from sklearn.utils.fixes import _mode
import numpy as np
print(np.ravel(_mode(np.array([1, 1, 2])).mode)[0], scipy.stats.norm.cdf(0.0), "scipy.stats" in sys.modules)
from sklearn.linear_model import LogisticRegression
print(LogisticRegression().fit([[0.0], [1.0]], [0, 1]).predict([[2.0]]))
"""
    assert run(code).splitlines() == ["False", "1 0.5 True", "[1]"]


def test_digits_come_without_scikit_learn_or_else_without_scipy_stats_and_pandas() -> None:
    code = """
import sys
from featbank.datasets import open_dataset, sources
print(len(open_dataset("digits").ids), "sklearn" in sys.modules)
sources.find_spec = lambda name: None
print(len(open_dataset("digits").ids), "scipy.stats" in sys.modules, "pandas" in sys.modules)
from sklearn.preprocessing import QuantileTransformer as Quantiles
print(Quantiles(n_quantiles=2, output_distribution="normal").fit_transform([[0.0], [1.0], [0.5]])[2, 0])
"""
    assert run(code).splitlines() == ["1797 False", "1797 False False", "0.0"]


@pytest.mark.parametrize(
    ("lean", "copied_to"),
    [
        ("from featbank.metrics import mean_interval; mean_interval([1.0, 2.0, 3.0])", "scipy._lib"),
        ("import featbank.heads.classic", "sklearn.externals"),
    ],
)
def test_scipy_and_scikit_learn_come_without_the_tests_of_numpy_which_work_afterwards(
    lean: str, copied_to: str
) -> None:
    code = f"""
import sys
{lean}
print("numpy.testing" in sys.modules, "numpy.f2py" in sys.modules)
import numpy as np
np.testing.assert_array_equal([1], [1])
from {copied_to}.array_api_compat.numpy import f2py
print(np.testing.__name__, np.f2py.get_include() == f2py.get_include(), "numpy.f2py" in sys.modules)
"""
    assert run(code).splitlines() == ["False False", "numpy.testing True True"]


def test_threads_that_import_at_once_get_the_real_modules() -> None:
    code = """
import sys, threading
from featbank import _process
_process.docstrings_read = False
start, failed = threading.Barrier(4), []
def work(call):
    start.wait()
    try:
        call()
    except BaseException as error:
        failed.append(repr(error))
calls = [_process.import_scipy, _process.import_sklearn, _process.import_matplotlib, _process.import_scipy]
threads = [threading.Thread(target=work, args=(call,)) for call in calls]
sys.setswitchinterval(1e-5)
[one.start() for one in threads]
[one.join() for one in threads]
import numpy as np
from matplotlib.artist import kwdoc
print(failed, np.testing.__name__, kwdoc.__name__)
"""
    assert run(code).splitlines() == ["[] numpy.testing kwdoc"]


def test_the_command_line_draws_without_the_tables_of_docstrings_and_a_program_has_them() -> None:
    code = """
import sys
from featbank import _process
from featbank.plots import ConfusionDisplay
_process.docstrings_read = {read}
ConfusionDisplay([[2, 1], [0, 3]], ["a", "b"]).plot()
from matplotlib.artist import kwdoc
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
print("linespacing" in Axes.text.__doc__, "linewidth" in kwdoc(Line2D))
"""
    assert run(code.format(read=False)) == "False True"
    assert run(code.format(read=True)) == "True True"


def test_heads_come_without_pandas_which_works_afterwards() -> None:
    pytest.importorskip("pandas")
    code = """
import sys
from featbank.heads import NearestMeanClassifier
print("pandas" in sys.modules, sys.modules["sklearn.utils.fixes"].pd.Index([3])[0], "pandas" in sys.modules)
import pandas as pd
head = NearestMeanClassifier().fit(pd.DataFrame({"a": [0.0, 1.0], "b": [0.0, 1.0]}), ["x", "y"])
print(head.feature_names_in_.tolist(), head.predict(pd.DataFrame({"a": [2.0], "b": [2.0]}))[0])
"""
    assert run(code).splitlines() == ["False 3 True", "['a', 'b'] y"]


@pytest.mark.slow
def test_heads_are_trained_and_weights_matched_without_the_compiler() -> None:
    code = """
import sys
import numpy as np
from featbank.backbones.families import build_on_meta
from featbank.backbones import get_spec, largest_activation, load_backbone
from featbank.heads import MLPClassifier, SoftmaxClassifier
X, y = np.random.default_rng(0).normal(size=(40, 6)), np.arange(40) % 2
for solver in ("adam", "sgd"):
    SoftmaxClassifier(solver=solver, max_epochs=2, patience=2).fit(X, y)
    MLPClassifier(solver=solver, max_epochs=2, patience=2, hidden_units=4).fit(X, y)
for name in ("mobilenet_v2", "resnet18"):
    assert all(one.is_meta for one in build_on_meta(get_spec(name)).parameters()), name
    largest_activation(load_backbone(name, weights="random"))
"""
    assert run(code + LOADED).splitlines()[-1] == "False False"
