"""Steps about the forward pass in bare torch: what the compiler takes, and the ceilings of four networks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import Bench

#: What the review wants of the forward pass, images per second.
GOALS = {"vgg16": 17_600, "resnet50": 25_000, "mobilenet_v2": 50_000, "vit_b_16": 8_000}
#: How a compiled network is built in step 6.
VARIANTS: dict[str, dict[str, Any]] = {"compiled": {"freezing": True}}


class Net:
    """uint8 images in, features out: a network with random weights, and the normalisation before it.

    The toy is one small convolution, whatever it stands for.
    """

    def __init__(self, bench: Bench, name: str, dtype: Any) -> None:
        import torch
        from torch import nn
        from torch.fx.experimental.optimization import fuse
        from torchvision.models import get_model

        with torch.device(bench.device):
            if bench.toy:
                made: nn.Module = nn.Sequential(
                    nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 4)
                )
            else:
                made = get_model(name, weights=None)
                # a ViT's last layer begins as zeros, and zeros are equal whatever was computed
                for values in made.parameters():
                    if values.ndim > 1 and not values.any():
                        nn.init.normal_(values, std=0.02)
            self.mean = torch.tensor([123.7, 116.3, 103.5], dtype=dtype).view(1, 3, 1, 1)
            self.scale = torch.tensor([0.0171, 0.0175, 0.0174], dtype=dtype).view(1, 3, 1, 1)
        made = made.eval().requires_grad_(False)
        if not bench.toy and name in ("resnet50", "mobilenet_v2"):
            made = fuse(made)  # batch norms folded into the convolutions
        self.module, self.dtype = made.to(dtype, memory_format=torch.channels_last), dtype

    def __call__(self, images: Any) -> Any:
        return self.module((images.to(self.dtype) - self.mean) * self.scale)


def images_on(bench: Bench, batch: int) -> Any:
    """Return uint8 images on the device, channels last."""
    import torch

    side = bench.size(224, 32)
    shape = (batch, side, side, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=bench.device).permute(0, 3, 1, 2)


def graphed(bench: Bench, call: Callable[[Any], Any], images: Any) -> Callable[[], Any]:
    """Return a replay of `call` on `images` as one CUDA graph."""
    import torch

    bench.need_card()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call(images)
    return graph.replay


def compiling(bench: Bench) -> None:
    """Does the compiler take the networks: without gradients, in inference mode, from another thread?"""
    import torch

    cases = [
        ("vgg16", "no_grad", "another thread"),
        ("vit_b_16", "inference_mode", "one thread"),
        ("resnet50", "no_grad", "one thread"),
    ]
    for name, mode, where in cases[: bench.size(3, 1)]:
        with bench.part(f"{name} compiled under {mode}, run in {where}") as note:
            bench.need_compiler()
            torch._dynamo.reset()
            net, images = Net(bench, name, torch.bfloat16), images_on(bench, bench.size(32, 2))
            compiled = torch.compile(net, fullgraph=True, dynamic=False, options=VARIANTS["compiled"])
            found: list[Any] = []

            def push(
                call: Callable[[Any], Any], found: list[Any] = found, images: Any = images, mode: str = mode
            ) -> None:
                with getattr(torch, mode)():  # a thread's own
                    found.append(call(images).float())

            push(net)
            took_s = bench.seconds(partial(push, compiled))
            if where == "another thread":
                thread = threading.Thread(target=push, args=(compiled,))
                thread.start()
                thread.join()
            error = float((found[-1] - found[0]).norm() / found[0].norm())
            wanted = 3 if where == "another thread" else 2
            unlike = float(found[0].std()) > 0  # of zeros every error is nothing
            said = f"s to compile; {error:.1e} off eager"
            note(took_s, said, ok=unlike and error < 0.05 and len(found) == wanted)


def forward(bench: Bench) -> None:
    """The forward pass alone, images on the card: as featbank ran it, in pure bfloat16, as one graph."""
    import torch

    torch.backends.cudnn.benchmark = True
    batch = bench.size(512, 8)
    images = images_on(bench, batch)
    for name, goal in GOALS.items():
        with bench.part(f"{name} eager autocast, {batch}", goal) as note:
            net = Net(bench, name, torch.float32)
            with torch.inference_mode(), torch.autocast(bench.device.type, torch.bfloat16):
                note(bench.rate(lambda net=net: net(images), batch), "images/s")
        lowered = Net(bench, name, torch.bfloat16)
        with bench.part(f"{name} bfloat16, {batch}", goal) as note, torch.no_grad():
            note(bench.rate(lambda net=lowered: net(images), batch), "images/s")
        with bench.part(f"{name} bfloat16 graph, {batch}", goal) as note, torch.no_grad():
            note(bench.rate(graphed(bench, lowered, images), batch), "images/s")


def variants(bench: Bench) -> None:
    """Compiled networks: built at the same time in processes of their own, timed one after another."""
    wanted = [f"{net}-{kind}" for kind in VARIANTS for net in GOALS][: bench.size(4, 1)]
    with bench.part("compiled variants"):
        bench.need_compiler()
        folder = bench.work / "variants"
        folder.mkdir()
        command = [
            sys.executable,
            str(Path(__file__).parent),
            "--out",
            str(bench.out),
            "--work",
            str(bench.work),
        ]
        command += ["--toy"] if bench.toy else []
        env = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": str(bench.size(4, 1))}
        running = {one: subprocess.Popen([*command, "--variant", one], env=env) for one in wanted}
        try:
            _in_turn(bench, running, folder, time.monotonic() + 45)
        finally:
            for process in running.values():
                process.kill()
                process.wait()


def _in_turn(
    bench: Bench, running: dict[str, subprocess.Popen[bytes]], folder: Path, deadline: float
) -> None:
    def building(one: str) -> bool:
        return running[one].poll() is None and not (folder / f"{one}.ready").exists()

    while time.monotonic() < deadline and any(map(building, running)):
        time.sleep(0.1)
    late = [one for one in running if building(one)]
    for one in late:
        running[one].kill()  # what still builds would share the card with what is timed
    for one, process in running.items():
        with bench.part(one) as note:
            (folder / f"{one}.go").touch()
            code = process.wait(20)
            if code:
                note("not built in 45 s" if one in late else f"ended with {code}", ok=False)


def variant(bench: Bench, name: str) -> None:
    """Build one compiled network, wait for its turn, time it; in a process of its own."""
    import torch

    torch.backends.cudnn.benchmark = True
    folder, (network, kind) = bench.work / "variants", name.rsplit("-", 1)
    batch = bench.size(256, 2)
    net, images = Net(bench, network, torch.bfloat16), images_on(bench, batch)
    compiled: Callable[[Any], Any] = net  # the toy compiles in step 3
    if not bench.toy:
        compiled = torch.compile(net, fullgraph=True, dynamic=False, options=VARIANTS[kind])
    with torch.no_grad():
        built_s = bench.seconds(lambda: compiled(images))
        (folder / f"{name}.ready").touch()
        while not (folder / f"{name}.go").exists():
            time.sleep(0.05)
        with bench.part(f"{network} {kind}, {batch}", GOALS[network]) as note:
            note(bench.rate(lambda: compiled(images), batch), f"images/s, built in {built_s:.0f} s")
        with bench.part(f"{network} {kind} graph, {batch}", GOALS[network]) as note:
            note(bench.rate(graphed(bench, compiled, images), batch), "images/s")
