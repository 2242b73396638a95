"""The trainer: it learns, goes on to the same bits, keeps what it should, and says when it diverges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from featbank.errors import InvalidInputError, TrainingDivergedError, WeightsError
from featbank.training.loop import TrainingImages, train_network

PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def same(one, other):
    return all(np.array_equal(one.state[name], other.state[name]) for name in one.state)


def test_it_learns_and_says_what_it_saw(build, images, quick):
    steps = []
    found = train_network(
        build,
        images,
        val=images,
        test=images,
        recipe=quick(epochs=12),
        on_step=lambda *at: steps.append(at),
        **PLAIN,
    )
    assert [one["epoch"] for one in found.history] == list(range(1, 13))
    assert found.history[-1]["train_loss"] < found.history[0]["train_loss"]
    assert found.scores["test_top1"] > 0.9
    assert found.scores["test_top5"] == 1.0  # three classes are among any five
    assert found.scores["test_loss"] == pytest.approx(found.history[-1]["test_loss"])
    assert steps[-1] == (36, 36)
    assert found.confusion.sum() == 24
    assert np.trace(found.confusion) == round(24 * found.scores["test_top1"])


def test_scores_are_those_of_the_weights(build, images, quick):
    found = train_network(build, images, test=images, recipe=quick(), **PLAIN)
    network = build()
    network.load_state_dict({name: torch.from_numpy(one) for name, one in found.state.items()})
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        taken_for = network.eval()((pixels - 0.5) / 0.25).argmax(1).numpy()
    assert found.scores["test_top1"] == pytest.approx((taken_for == images.labels).mean())


@pytest.mark.parametrize(
    "changes",
    [{}, {"averaged_epochs": 2}, {"patience": 2}, {"optimizer": "sgd", "rotation": 10.0, "shift": 0.1}],
    ids=["plain", "averaged", "patience", "sgd and turns"],
)
def test_what_was_interrupted_ends_with_the_same_bits(build, images, quick, tmp_path, changes):
    recipe = quick(epochs=4, **changes)
    given = {"val": images, "test": images, "recipe": recipe, **PLAIN}
    whole = train_network(build, images, **given)

    def interrupt(entry):
        if entry["epoch"] == 2:
            raise KeyboardInterrupt

    place = tmp_path / "checkpoint.safetensors"
    kept = {"checkpoint": place, "checkpoint_every_s": 0.0}
    with pytest.raises(KeyboardInterrupt):
        train_network(build, images, on_epoch=interrupt, **kept, **given)
    epochs = []
    resumed = train_network(build, images, on_epoch=lambda one: epochs.append(one["epoch"]), **kept, **given)
    assert epochs[0] == 3
    assert same(resumed, whole)
    assert resumed.scores == whole.scores
    assert resumed.best_epoch == whole.best_epoch
    with pytest.raises(InvalidInputError, match=r"made otherwise \(lr: 0.01 there, 0.5 asked\)"):
        train_network(build, images, **kept, **{**given, "recipe": quick(epochs=4, **changes, lr=0.5)})
    place.write_bytes(b"cut" + place.read_bytes()[:100])
    with pytest.raises(WeightsError, match=r"is damaged .*; remove it to begin again"):
        train_network(build, images, **kept, **given)


def test_early_stopping_keeps_the_best_epoch(build, images, quick):
    wrong = TrainingImages(images.images, (images.labels + 1) % 3)  # gets worse as the network learns
    found = train_network(build, images, val=wrong, recipe=quick(epochs=60, patience=3), **PLAIN)
    assert found.stopped_early
    assert len(found.history) == found.best_epoch + 3
    best = max(one["val_top1"] for one in found.history)
    assert found.scores["val_top1"] == best == found.history[found.best_epoch - 1]["val_top1"]
    with pytest.raises(InvalidInputError, match="patience=3 needs validation images"):
        train_network(build, images, recipe=quick(patience=3), **PLAIN)


def test_a_recipe_that_diverges_stops_and_says_so(build, images, quick):
    epochs = []
    with pytest.raises(TrainingDivergedError) as caught:
        train_network(
            build, images, recipe=quick(optimizer="sgd", lr=1e9, epochs=5), on_epoch=epochs.append, **PLAIN
        )
    assert len(epochs) < 5
    assert str(caught.value).startswith("training diverged in epoch ")
    assert "use a lower learning rate than lr=1e+09" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tested", [True, False], ids=["test images", "none"])
@pytest.mark.parametrize("averaged", [0, 1])
def test_a_last_step_that_diverges_leaves_no_network(build, images, quick, tmp_path, tested, averaged):
    """The loss of its only epoch is that of guessing: it is summed before the step."""
    recipe = quick(
        optimizer="sgd", lr=1e30, epochs=1, batch_size=24, warmup_epochs=0, averaged_epochs=averaged
    )
    given = {"test": images if tested else None, "checkpoint": tmp_path / "last.safetensors"}
    with pytest.raises(TrainingDivergedError, match=r"training diverged in epoch 1: the loss is (nan|inf),"):
        train_network(build, images, recipe=recipe, **given, **PLAIN)
    assert not given["checkpoint"].exists()  # it would stand in the way of a lower rate


def test_the_seed_decides(build, images, quick):
    first, again, other = (
        train_network(build, images, recipe=quick(random_state=seed, epochs=1), **PLAIN) for seed in (0, 0, 1)
    )
    assert same(first, again)
    assert not same(first, other)


def test_the_callers_random_numbers_are_left_alone(build, images, quick):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_network(build, images, recipe=quick(epochs=1), **PLAIN)
    assert torch.equal(torch.rand(3), expected)


def test_averaging_keeps_the_mean_of_the_last_weights(build, images, quick):
    """The mean over epochs 2 and 3 is the mean of what trainings that stop there end with."""
    still = {"lr_schedule": "constant", "warmup_epochs": 0.0}
    second, third, mean = (
        train_network(build, images, recipe=quick(epochs=n, averaged_epochs=averaged, **still), **PLAIN)
        for n, averaged in ((2, 0), (3, 0), (3, 2))
    )
    name = "conv1.layer.weight"
    np.testing.assert_allclose(
        mean.state[name], (second.state[name] + third.state[name]) / 2, rtol=1e-5, atol=1e-7
    )
    # 24 images in batches of 8: the statistics are those of one pass with the averaged weights, no more
    assert mean.state["conv1.norm.num_batches_tracked"] == 3


def test_weight_decay_draws_weights_in_and_leaves_norms(build, images, quick):
    plain, decayed = (
        train_network(build, images, recipe=quick(epochs=2, optimizer="adamw", weight_decay=one), **PLAIN)
        for one in (0.0, 10.0)
    )
    name = "conv2.layer.weight"
    assert np.abs(decayed.state[name]).mean() < 0.8 * np.abs(plain.state[name]).mean()
    assert np.abs(decayed.state["conv2.norm.weight"]).mean() > 0.9


def test_one_image_left_over_joins_the_last_step(build, images, quick):
    odd = TrainingImages(images.images[:17], images.labels[:17])
    steps = []
    train_network(build, odd, recipe=quick(epochs=1), on_step=lambda *at: steps.append(at), **PLAIN)
    assert steps == [(1, 2), (2, 2)]


def test_images_that_do_not_fit_the_network(build, images, quick):
    tiny = TrainingImages(images.images[:, :4, :4], images.labels)
    with pytest.raises(InvalidInputError, match="images of 4 x 4 pixels do not pass through the network"):
        train_network(build, tiny, recipe=quick(), **PLAIN)


def test_a_device_that_is_not_there(build, images, quick):
    with pytest.raises(InvalidInputError, match=r"device='warp' cannot be used: .*; use 'cpu' or 'cuda'"):
        train_network(build, images, recipe=quick(), device="warp", **PLAIN)


def test_bfloat16_and_other_images_are_measured_in_the_end(build, images, quick):
    dark = TrainingImages(np.zeros_like(images.images), images.labels)
    found = train_network(
        build, images, test=images, also={"dark": dark}, recipe=quick(precision="bfloat16", epochs=1), **PLAIN
    )
    assert found.scores["dark_top1"] == pytest.approx(1 / 3)  # all look the same
    assert "dark_top1" not in found.history[0]


def test_mean_and_deviation_of_the_images():
    pixels = np.zeros((4, 2, 2, 3), np.uint8)
    pixels[..., 0] = 255
    pixels[:2, ..., 1] = 255
    mean, std = TrainingImages(pixels, np.zeros(4, np.int64)).mean_and_std()
    assert mean == (1.0, 0.5, 0.0)
    assert std == (0.001, 0.5, 0.001)


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch, after a checkpoint was written."""
    import signal
    import subprocess
    import sys
    import time

    code = (
        "import sys, time\nimport featbank\nfrom featbank.training import loop\n"
        "loop.train_network.__kwdefaults__['checkpoint_every_s'] = 0.0\n"
        "slow = (lambda done, total: time.sleep(0.3)) if sys.argv[2] == 'slow' else None\n"
        f"featbank.train({str(data)!r}, network='own_net',\n"
        "    params={'widths': [4, 4, 8], 'hidden': [8, 8]},\n"
        "    recipe={'epochs': 6, 'batch_size': 8, 'precision': 'float32', 'lr': 0.01}, split='7,0,3',\n"
        "    output=sys.argv[1], on_step=slow)\n"
    )

    def start(folder: str, how: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, str(tmp_path / folder), how])

    whole = start("whole", "fast")
    killed = start("killed", "slow")
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    until = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert checkpoint.exists()
    assert not (tmp_path / "killed" / "training.json").exists()
    again = start("killed", "fast")
    assert (whole.wait(), again.wait()) == (0, 0)
    ends = [json.loads((tmp_path / one / "training.json").read_text()) for one in ("whole", "killed")]
    assert len(ends[1]["history"]) == 6
    assert ends[0]["sha256"] == ends[1]["sha256"]
