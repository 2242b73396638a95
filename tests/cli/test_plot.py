"""``featbank plot``."""

from __future__ import annotations

import pytest

from featbank.plots import FIGURES

PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FIGURES])
def test_every_kind_of_figure(call, place, kind):
    run = "warmth" if kind == "temperature" else "depth"
    (folder,) = (place / "cache" / "runs").glob(f"*-{run}")
    file = folder / "figures" / f"{kind}.png"
    file.unlink(missing_ok=True)  # of several sizes no scores were drawn
    done = call("plot", kind, run)
    assert (done.code, done.out) == (0, f"{file}\n")
    assert file.read_bytes().startswith(PNG)
    done = call("plot", kind, run, "-o", f"new/{kind}.svg", "--json")
    assert done.json["figure"] == f"new/{kind}.svg"
    assert ("caption" in done.json) == (kind not in ("confusion", "times"))
    assert (place / "new" / f"{kind}.svg").read_bytes().startswith(SVG)


def test_the_newest_run_is_the_default(call, place):
    for arguments in ([], ["last"]):
        assert call("plot", "temperature", *arguments).out.strip().endswith("-warmth/figures/temperature.png")


def test_several_runs_in_one_figure(call, place):
    one = call("plot", "curve", "depth", "-o", "one.svg")
    both = call("plot", "curve", "depth", "warmth", "--head", "softmax", "-o", "both.svg")
    assert (one.code, both.code) == (0, 0)
    assert (place / "one.svg").read_bytes() != (place / "both.svg").read_bytes()


@pytest.mark.slow
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


def test_a_figure_for_a_paper(call, place):
    """A column wide, text as text, no title; what the legend has no room for is said for the caption."""
    look = ["--size", "3.3x2.4", "--font-size", 8, "--title", "none", "--legend", "inside"]
    done = call("plot", "curve", "depth", *look, "--out", "paper.pdf")
    assert done.code == 0
    assert "caption: Mean over the repeats, each with its own draw of training images." in done.err
    made = (place / "paper.pdf").read_bytes()
    assert made.startswith(b"%PDF")
    assert b"/MediaBox [ 0 0 237.6 172.8 ]" in made
    assert b"/FontFile2" in made
    plain = call("plot", "curve", "depth", *look[:4], "--out", "titled.svg")
    assert "caption" not in plain.err
    assert b"photos, minivgg" in (place / "titled.svg").read_bytes()
    call("plot", "curve", "depth", *look, "--out", "bare.svg")
    assert b"photos, minivgg" not in (place / "bare.svg").read_bytes()
    call("plot", "curve", "depth", "--title", "My own", "--format", "svg", "--out", "figure.txt")
    assert b"My own" in (place / "figure.txt").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["curves"],
            f"plot 'curves': the kinds are {', '.join(FIGURES)}",
        ),
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
            "plot curve takes no --samples (got '4'); it is for plot temperature, scores, cuts",
        ),
        (["times", "--metric", "top5"], "plot times takes no --metric (got 'top5'); it is for plot curve"),
        (["cuts", "--interval", "t"], "plot cuts takes no --interval (got 't'); it is for plot curve"),
        (
            ["confusion", "--extrapolate", 64],
            "plot confusion takes no --extrapolate (got 64.0); it is for plot curve",
        ),
        (["curve", "--interval", "z"], "--interval 'z' is not one of t, bootstrap"),
        (
            ["curve", "-o", "curve.gif"],
            "cannot write a figure to 'curve.gif'; end it in .png, .svg, .pdf or .eps",
        ),
        (["curve", "--format", "gif"], "--format 'gif' is not one of png, svg, pdf, eps"),
        (["curve", "--size", "3.3"], "--size '3.3' is no width and height in inches such as 3.3x2.4"),
        (["curve", "--size", "90x2"], "size=(90.0, 2.0) is no width and height between 1 and 60 inches"),
        (["curve", "--legend", "left"], "--legend 'left' is not one of outside, inside, none"),
        (
            ["times", "warmth", "--cut", "fc7"],
            "the run has no fits of cut 'fc7'; it has 'block5_pool', 'softmax'",
        ),
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


@pytest.mark.parametrize(
    "title", ["half a \ud800 character", "a \0 byte", "$\\frac{", "two\nlines", "x" * 300]
)
def test_a_title_may_be_any_text(call, place, title):
    done = call("plot", "curve", "depth", "--title", title, "--out", "titled.svg")
    assert (done.code, done.err) == (0, "")
