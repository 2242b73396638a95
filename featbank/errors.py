"""Every error featbank raises on purpose; each is also the built-in error of its kind.

``except FeatbankError`` catches all of them, ``except ValueError`` (or ``FileNotFoundError``,
``OSError``, ...) still works for code that knows nothing of featbank. ``exit_code`` is what the
command line ends with when the error reaches it.
"""

from __future__ import annotations

__all__ = [
    "BankChangedError",
    "BankError",
    "BankFormatError",
    "BankNotFoundError",
    "BankReadError",
    "CacheWriteError",
    "CorruptBankError",
    "DatasetError",
    "DecoderProcessError",
    "FeatbankError",
    "FeatureOverflowError",
    "FitWarning",
    "ImageDecodeError",
    "IncompleteBankError",
    "InvalidInputError",
    "LeakWarning",
    "MissingDataError",
    "MissingPackageError",
    "MissingWeightsError",
    "NodeError",
    "RunError",
    "RunNotFoundError",
    "TrainingDivergedError",
    "UnknownNameError",
    "WeightsError",
    "WorkerLostError",
]

_LONGEST = 300


def one_line(error: object, *, first: bool = False) -> str:
    """Return on one line, of 300 characters at most, what code of others says was wrong.

    Parameters
    ----------
    error : object
        What was raised; one that says nothing is told by its type.
    first : bool, default=False
        Take the first of its lines alone: torch and Ray come to the point there, and go on with advice.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[:1] if first else lines)[:_LONGEST].rstrip(".")
    return said or type(error).__name__


class FeatbankError(Exception):
    """Base of every deliberate featbank error; its text is one line a user can act on."""

    exit_code: int = 2


class InvalidInputError(FeatbankError, ValueError):
    """An argument has a value that cannot work."""


class UnknownNameError(FeatbankError, LookupError):
    """A name (backbone, cut, head, class, ...) is not among those known."""


class DatasetError(FeatbankError, ValueError):
    """A dataset can be read but does not make sense (empty, one class, a line without a label)."""


class MissingDataError(FeatbankError, FileNotFoundError):
    """The images are not where they were said to be."""

    exit_code = 3


class MissingPackageError(FeatbankError, ImportError):
    """A package that only this needs is not installed."""


class ImageDecodeError(FeatbankError, ValueError):
    """One image cannot be turned into pixels.

    Parameters
    ----------
    reason : str
        Short machine-readable cause, e.g. ``"truncated"``; stands in ``quarantine.jsonl``.
    detail : str
        What the decoder said.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class DecoderProcessError(FeatbankError, RuntimeError):
    """The processes that decode images cannot be started, or do not stay alive."""


class MissingWeightsError(FeatbankError, FileNotFoundError):
    """Pretrained weights are neither on this machine nor reachable."""

    exit_code = 3


class WeightsError(FeatbankError, ValueError):
    """A weights file was read but does not fit the backbone, or is not safe to load."""


class BankError(FeatbankError):
    """Base of everything that can be wrong with a bank."""


class BankNotFoundError(BankError, FileNotFoundError):
    """There is no bank at that place."""

    exit_code = 3


class BankFormatError(BankError, ValueError):
    """The bank was written in a format this version does not read."""


class BankReadError(BankError, OSError):
    """A file of a bank cannot be opened or read now, which says nothing of its bytes."""

    exit_code = 3


class BankChangedError(BankError, RuntimeError):
    """A bank has other rows than when the handle that is reopened was made."""


class CorruptBankError(BankError, OSError):
    """Bytes on disk are not the bytes that were written."""


class IncompleteBankError(BankError, LookupError):
    """Rows that were asked for have not been extracted (yet)."""


class CacheWriteError(FeatbankError, OSError):
    """The cache cannot be written: no permission, disk full, read-only file system."""


class FeatureOverflowError(BankError, OverflowError):
    """Features do not fit the stored dtype, or are not finite."""


class RunError(FeatbankError, ValueError):
    """A run folder does not hold what was asked of it."""


class RunNotFoundError(RunError, FileNotFoundError):
    """There is no run at that place."""

    exit_code = 3


class TrainingDivergedError(FeatbankError, ArithmeticError):
    """A network that is being trained has lost its weights to infinity; nothing more can come of it."""


class NodeError(FeatbankError, RuntimeError):
    """A node of a cluster lacks what every node must have; its text names the node."""

    exit_code = 3


class WorkerLostError(FeatbankError, RuntimeError):
    """The processes that computed one item died, each time it was tried."""


class FitWarning(UserWarning):
    """A head was fitted but has not learned, or was stopped before it converged."""


class LeakWarning(UserWarning):
    """Identical images stand on both sides of a split."""
