"""What a hostile image might make of a decoder, acted out by the colour of its first pixel.

The decoding processes import this module by name; `tests/datasets` is on their path for that.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

CRASHES = {"exit": 1, "segfault": 2, "abort": 3, "killed": 4}
HANGS = {"sleep": 11, "sleep-with-the-interpreter": 12, "stopped": 13, "endless": 14}
OTHERS = {"ten-gigabytes": 21, "bug": 22, "wrong-shape": 23, "once": 24, "slow": 25}
PLAIN = 200


def act(image: Image.Image) -> np.ndarray:
    """Give an 8 x 8 image's pixels, or do what its red value says."""
    pixels = np.asarray(image).copy()
    red, green = int(pixels[0, 0, 0]), int(pixels[0, 0, 1])
    if red == CRASHES["exit"]:
        os._exit(3)
    elif red == CRASHES["segfault"]:
        ctypes.string_at(0)
    elif red == CRASHES["abort"]:
        os.abort()
    elif red == CRASHES["killed"]:
        os.kill(os.getpid(), signal.SIGKILL)
    elif red == HANGS["sleep"]:
        time.sleep(1000)
    elif red == HANGS["sleep-with-the-interpreter"]:
        ctypes.PyDLL(None).sleep(1000)
    elif red == HANGS["stopped"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif red == HANGS["endless"]:
        while True:
            pass
    elif red == OTHERS["ten-gigabytes"]:
        np.ones(10 << 30, dtype=np.uint8)
    elif red == OTHERS["bug"]:
        raise KeyError("no such colour")
    elif red == OTHERS["wrong-shape"]:
        return pixels[:1, :1]
    elif red == OTHERS["slow"]:
        time.sleep(0.6)
    elif red == OTHERS["once"]:
        marker = Path(os.environ["ODD_MARKER"]) / str(green)
        if not marker.exists():
            marker.touch()
            os._exit(4)
    return pixels


def who(image: Image.Image) -> np.ndarray:
    """Write into the pixels who decodes: the process, and whether it knows torch."""
    pixels = np.asarray(image).copy()
    pixels[0, 0] = "torch" in sys.modules, "matplotlib" in sys.modules, "sklearn" in sys.modules
    pixels[0, 1:5, 0] = np.frombuffer(np.int32(os.getpid()).tobytes(), dtype=np.uint8)
    return pixels
