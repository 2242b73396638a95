"""``featbank plot``."""

from __future__ import annotations

import pytest

PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


@pytest.mark.parametrize("kind", ["curve", "history", "cuts", "confusion", "temperature", "times"])
def test_every_kind_of_figure(call, place, kind):
    run = "warmth" if kind == "temperature" else "depth"
    (folder,) = (place / "cache" / "runs").glob(f"*-{run}")
    file = folder / "figures" / f"{kind}.png"
    file.unlink()
    done = call("plot", kind, run)
    assert (done.code, done.out) == (0, f"{file}\n")
    assert file.read_bytes().startswith(PNG)
    done = call("plot", kind, run, "-o", f"new/{kind}.svg", "--json")
    assert done.json == {"figure": f"new/{kind}.svg"}
    assert (place / "new" / f"{kind}.svg").read_bytes().startswith(SVG)


def test_the_newest_run_is_the_default(call, place):
    for arguments in ([], ["last"]):
        assert call("plot", "temperature", *arguments).out.strip().endswith("-warmth/figures/temperature.png")


def test_several_runs_in_one_figure(call, place):
    one = call("plot", "curve", "depth", "-o", "one.svg")
    both = call("plot", "curve", "depth", "warmth", "--head", "softmax", "-o", "both.svg")
    assert (one.code, both.code) == (0, 0)
    assert (place / "one.svg").read_bytes() != (place / "both.svg").read_bytes()


def test_cuts_by_their_alias_and_intervals(call, place):
    pictures = {
        name: call("plot", "curve", "depth", *arguments, "-o", f"{name}.svg").code
        for name, arguments in {
            "alias": ["--cut", "pool5"],
            "name": ["--cut", "block5_pool"],
            "other": ["--cut", "block4_pool"],
            "rows": ["--cut", "pool5", "--interval", "bootstrap"],
            "further": ["--cut", "pool5", "--extrapolate", 64],
        }.items()
    }
    assert set(pictures.values()) == {0}
    drawn = {name: (place / f"{name}.svg").read_bytes() for name in pictures}
    assert drawn["alias"] == drawn["name"]
    assert len(set(drawn.values())) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["curves"], "plot 'curves': the kinds are curve, cuts, temperature, history, confusion, times"),
        (["cuts", "depth", "warmth"], "plot cuts takes one run, got 2; only curve takes several"),
        (["history", "--head", "a,b"], "plot history takes one --head, got 2"),
        (["curve", "depth", "--head", "mlp"], "the run has no fits of head 'mlp'; it has 'softmax', 'ncm'"),
        (
            ["curve", "depth", "--cut", "block3_pool"],
            "the run has no fits of cut 'block3_pool'; it has 'block5_pool', 'block4_pool'",
        ),
        (
            ["curve", "--metric", "top2"],
            "metric='top2' is not one of top1, top5, val_top1, val_top5, train_top1, train_top5",
        ),
        (
            ["curve", "--samples", 4],
            "plot curve takes no --samples (got '4'); it is for plot cuts, temperature",
        ),
        (["times", "--cut", "fc7"], "plot times takes no --cut (got ['fc7']); it is for plot curve"),
        (["cuts", "--interval", "t"], "plot cuts takes no --interval (got 't'); it is for plot curve"),
        (
            ["temperature", "--head", "mlp"],
            "plot temperature takes no --head (got ['mlp']); it is for plot curve, history, confusion",
        ),
        (["curve", "--interval", "z"], "--interval 'z' is not one of t, bootstrap"),
        (["curve", "-o", "curve.pdf"], "cannot write a figure to 'curve.pdf'; end it in .png or .svg"),
        (
            ["temperature", "depth"],
            "no point has a temperature; fit with --cut softmax --temperature 0.5,1,2",
        ),
        (
            ["cuts", "depth", "--samples", 3.5],
            "'3.5' samples per class: give a whole number such as 16, or all",
        ),
        (
            ["history", "depth", "--head", "block5_pool-ncm-n4-r0"],
            "head 'block5_pool-ncm-n4-r0' was not trained in epochs; those that were: "
            "block4_pool-softmax-n4-r0, block5_pool-softmax-n4-r0",
        ),
        (
            ["curve", "warmth", "--extrapolate", 64],
            "a power law needs at least 4 sizes, got 2 (2, 4). Add sizes to --samples-per-class, e.g. 2..16.",
        ),
    ],
)
def test_wrong_options(call, place, arguments, message):
    done = call("plot", *arguments)
    assert (done.code, done.message) == (2, message)
