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
    """Base of every deliberate featbank error; its text is one line a user can act on.

    Examples
    --------
    >>> import featbank
    >>> try:
    ...     featbank.open_bank("pets")
    ... except FeatbankError as error:
    ...     print(error)
    ...     print("exit code of the command:", error.exit_code)
    no bank 'pets' in '.../cache/banks', there are: 'digits/minivgg-...'; `featbank extract` makes one
    exit code of the command: 3
    """

    exit_code: int = 2


class InvalidInputError(FeatbankError, ValueError):
    """An argument has a value that cannot work.

    Examples
    --------
    >>> from featbank.sampling import parse_sizes
    >>> parse_sizes("32..4")
    Traceback (most recent call last):
        ...
    featbank.errors.InvalidInputError: samples_per_class='32..4' runs backwards: 4 is less than 32. Write
    the smaller number first, e.g. 4..32.
    """


class UnknownNameError(FeatbankError, LookupError):
    """A name (backbone, cut, head, class, ...) is not among those known.

    Examples
    --------
    >>> from featbank.backbones import get_spec
    >>> get_spec("vgg61")
    Traceback (most recent call last):
        ...
    featbank.errors.UnknownNameError: unknown backbone 'vgg61'; known: 'vgg19', 'vgg16', ...
    """


class DatasetError(FeatbankError, ValueError):
    """A dataset can be read but does not make sense (empty, one class, a line without a label).

    Examples
    --------
    >>> from pathlib import Path
    >>> import featbank
    >>> Path("photos/cat").mkdir(parents=True)
    >>> Path("photos/cat/1.jpg").touch()
    >>> featbank.open_dataset("photos")
    Traceback (most recent call last):
        ...
    featbank.errors.DatasetError: '.../photos' has only one class, 'cat'; a classifier needs at least two
    """


class MissingDataError(FeatbankError, FileNotFoundError):
    """The images are not where they were said to be.

    Examples
    --------
    >>> import featbank
    >>> featbank.open_dataset("holiday.csv")
    Traceback (most recent call last):
        ...
    featbank.errors.MissingDataError: no images at 'holiday.csv' (looked for '.../holiday.csv'); give a
    folder of class folders or an archive of one, a .csv, .txt or .parquet file, ... or 'digits'
    """

    exit_code = 3


class MissingPackageError(FeatbankError, ImportError):
    """A package that only this needs is not installed.

    Examples
    --------
    >>> import sys
    >>> from unittest.mock import patch
    >>> import featbank
    >>> with patch.dict(sys.modules, {"pyarrow": None}):  # as where it is not installed
    ...     featbank.open_dataset("parquet:photos")
    Traceback (most recent call last):
        ...
    featbank.errors.MissingPackageError: a Parquet file needs pyarrow; install it with: pip install
    'featbank[parquet]'
    """


class ImageDecodeError(FeatbankError, ValueError):
    """One image cannot be turned into pixels.

    Parameters
    ----------
    reason : str
        Short machine-readable cause, e.g. ``"truncated"``; stands in ``quarantine.jsonl``.
    detail : str
        What the decoder said.

    Examples
    --------
    >>> from featbank.datasets import decode_image
    >>> try:
    ...     decode_image(b"<html>404</html>")
    ... except ImageDecodeError as error:
    ...     print(error)
    not-an-image: no decoder among JPEG, PNG, BMP, GIF, WebP, TIFF, PPM, JPEG 2000, AVIF and ... rarer ones
    knows these bytes
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class DecoderProcessError(FeatbankError, RuntimeError):
    """The processes that decode images cannot be started, or do not stay alive.

    Examples
    --------
    No broken image raises it, only a machine that cannot run the processes at all:

    >>> DecoderProcessError.exit_code, issubclass(DecoderProcessError, RuntimeError)
    (2, True)
    """


class MissingWeightsError(FeatbankError, FileNotFoundError):
    """Pretrained weights are neither on this machine nor reachable.

    Examples
    --------
    >>> import featbank
    >>> featbank.load_backbone("vgg16", weights="downloads/vgg16.safetensors")
    Traceback (most recent call last):
        ...
    featbank.errors.MissingWeightsError: weights file 'downloads/vgg16.safetensors' does not exist; pass
    another --weights FILE
    """

    exit_code = 3


class WeightsError(FeatbankError, ValueError):
    """A weights file was read but does not fit the backbone, or is not safe to load.

    Examples
    --------
    >>> import featbank
    >>> from pathlib import Path
    >>> size = Path("minivgg.pth").write_bytes(b"<html>404</html>")
    >>> featbank.load_backbone("minivgg", weights="minivgg.pth")
    Traceback (most recent call last):
        ...
    featbank.errors.WeightsError: weights file 'minivgg.pth' is not a zip archive, so it is damaged or a
    pickle in the format before torch 1.6, which can run code; save it again with
    safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')
    """


class BankError(FeatbankError):
    """Base of everything that can be wrong with a bank.

    Examples
    --------
    >>> import featbank
    >>> try:
    ...     featbank.open_bank("pets")
    ... except BankError as error:
    ...     print(type(error).__name__, isinstance(error, FileNotFoundError))
    BankNotFoundError True
    """


class BankNotFoundError(BankError, FileNotFoundError):
    """There is no bank at that place.

    Examples
    --------
    >>> import featbank
    >>> featbank.open_bank("pets")
    Traceback (most recent call last):
        ...
    featbank.errors.BankNotFoundError: no bank 'pets' in '.../cache/banks', there are: 'digits/minivgg-...';
    `featbank extract` makes one
    """

    exit_code = 3


class BankFormatError(BankError, ValueError):
    """The bank was written in a format this version does not read.

    Examples
    --------
    >>> import featbank
    >>> file = featbank.open_bank("digits").path / "bank.json"
    >>> size = file.write_text(file.read_text().replace('"format_version": 2', '"format_version": 3'))
    >>> featbank.open_bank("digits")
    Traceback (most recent call last):
        ...
    featbank.errors.BankFormatError: '.../cache/banks/digits/minivgg-.../bank.json' has format version 3,
    this featbank reads version 2: install the featbank that wrote it, or extract the bank again with this
    one, `featbank extract digits --backbone minivgg` (another --cache-dir keeps the old one)
    """


class BankReadError(BankError, OSError):
    """A file of a bank cannot be opened or read now, which says nothing of its bytes.

    Examples
    --------
    >>> import featbank
    >>> file = featbank.open_bank("digits").path / "manifest.h5"
    >>> file.unlink()
    >>> file.mkdir()  # as where a disk or a share does not answer
    >>> featbank.open_bank("digits")
    Traceback (most recent call last):
        ...
    featbank.errors.BankReadError: manifest '.../cache/banks/digits/minivgg-.../manifest.h5' cannot be read
    now (Is a directory), which says nothing of its bytes: a folder has the name of a file: move it away
    """

    exit_code = 3


class BankChangedError(BankError, RuntimeError):
    """A bank has other rows than when the handle that is reopened was made.

    Examples
    --------
    >>> import pickle
    >>> import featbank
    >>> handle = pickle.dumps(featbank.open_bank("digits"))
    >>> fewer = featbank.extract("digits", backbone="minivgg", cuts=["fc7"], limit=250)
    >>> pickle.loads(handle)
    Traceback (most recent call last):
        ...
    featbank.errors.BankChangedError: bank 'digits/minivgg-...' in '.../cache/banks/digits/minivgg-...' was
    extracted again with other rows (images, labels, splits or classes) since this handle was pickled, whose
    row numbers mean others now: open it again, and take row numbers and labels from its manifest
    """


class CorruptBankError(BankError, OSError):
    """Bytes on disk are not the bytes that were written.

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> (shard,) = bank.path.glob("fc7/*.h5")
    >>> size = shard.write_bytes(shard.read_bytes()[:-100])
    >>> bank["fc7"][0]
    Traceback (most recent call last):
        ...
    featbank.errors.CorruptBankError: shard '.../cache/banks/digits/minivgg-.../fc7/00000-....h5' is
    damaged: it has ... bytes, it should have ...; `featbank banks verify --repair` sets it aside and
    extracts its rows again
    """


class IncompleteBankError(BankError, LookupError):
    """Rows that were asked for have not been extracted (yet).

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> (shard,) = bank.path.glob("fc7/*.h5")
    >>> shard.unlink()
    >>> featbank.open_bank("digits")["fc7"][0]
    Traceback (most recent call last):
        ...
    featbank.errors.IncompleteBankError: cut 'fc7' of bank 'digits/minivgg-...' lacks shard 0 (slots 0 to
    299); `featbank extract digits --backbone minivgg --cut fc7` again extracts it
    """


class CacheWriteError(FeatbankError, OSError):
    """The cache cannot be written: no permission, disk full, read-only file system.

    Examples
    --------
    >>> import featbank
    >>> from pathlib import Path
    >>> size = Path("cache").write_text("a file where the cache should be")
    >>> featbank.extract("digits", backbone="minivgg", cuts=["fc7"], limit=20)
    Traceback (most recent call last):
        ...
    featbank.errors.CacheWriteError: cannot write '.../cache/banks/digits/minivgg-...' (Not a directory): a
    file stands where a folder is needed; choose another place with --cache-dir
    """


class FeatureOverflowError(BankError, OverflowError):
    """Features do not fit the stored dtype, or are not finite.

    Examples
    --------
    >>> import featbank
    >>> try:
    ...     featbank.extract("digits", backbone="minivgg", cuts=["fc7"], limit=20, std=[1e-9] * 3)
    ... except FeatureOverflowError as error:
    ...     print(error)
    'fc7' of '...' reaches ..., float16 ends at 6.55e+04; this shard was not stored: use --on-overflow
    float32 (this cut alone), --dtype float32, or --on-overflow clip
    """


class RunError(FeatbankError, ValueError):
    """A run folder does not hold what was asked of it.

    Examples
    --------
    >>> import featbank
    >>> featbank.open_run().predictions("mlp")
    Traceback (most recent call last):
        ...
    featbank.errors.RunError: run '...-digits' has no head 'mlp'; it has 'block3_pool-logreg-n16-...',
    ...; 'featbank runs info ...-digits' lists them
    """


class RunNotFoundError(RunError, FileNotFoundError):
    """There is no run at that place.

    Examples
    --------
    >>> import featbank
    >>> featbank.open_run("last week")
    Traceback (most recent call last):
        ...
    featbank.errors.RunNotFoundError: no run 'last week'; there are '...-digits'
    """

    exit_code = 3


class TrainingDivergedError(FeatbankError, ArithmeticError):
    """A network that is being trained has lost its weights to infinity; nothing more can come of it.

    Examples
    --------
    >>> import featbank
    >>> small = {"widths": [4, 4, 8], "hidden": [8, 8]}
    >>> recipe = {"epochs": 2, "optimizer": "sgd", "lr": 1e9}
    >>> featbank.train("digits", network="own_net", params=small, recipe=recipe, limit=110, split="6,0,4")
    Traceback (most recent call last):
        ...
    featbank.errors.TrainingDivergedError: training diverged in epoch 2: the loss is ... after ..., and
    guessing has 2.3; use a lower learning rate than lr=1e+09, or warmup_epochs
    """


class NodeError(FeatbankError, RuntimeError):
    """A node of a cluster lacks what every node must have; its text names the node.

    Examples
    --------
    What a node says of missing weights, say, ends the command on the machine that asked, with its exit code:

    >>> NodeError.exit_code, issubclass(NodeError, RuntimeError)
    (3, True)
    """

    exit_code = 3


class WorkerLostError(FeatbankError, RuntimeError):
    """The processes that computed one item died, each time it was tried.

    Examples
    --------
    >>> from featbank.engines import Outcome
    >>> Outcome("fc7", error=WorkerLostError("its process died 4 times")).get()
    Traceback (most recent call last):
        ...
    featbank.errors.WorkerLostError: its process died 4 times
    """


class FitWarning(UserWarning):
    """A head was fitted but has not learned, or was stopped before it converged.

    Examples
    --------
    >>> import warnings
    >>> import featbank
    >>> head = featbank.SoftmaxClassifier(solver="lbfgs", C="auto")
    >>> with warnings.catch_warnings(record=True, action="always") as told:
    ...     head = head.fit([[0.0, 1.0], [1.0, 0.0]], ["cat", "dog"])
    >>> print(told[0].message)
    C='auto' has nothing to choose by, without validation rows and with one sample of each class; C=1 was
    taken
    """


class LeakWarning(UserWarning):
    """Identical images stand on both sides of a split.

    Examples
    --------
    >>> import types, warnings
    >>> import numpy as np
    >>> import featbank
    >>> from featbank.manifest import Manifest
    >>> digests = np.zeros((20, 32), np.uint8)
    >>> digests[:, 0] = [*range(19), 0]  # the last image, of the test, is the first again, of the training
    >>> ids, labels = [f"{row}".encode() for row in range(20)], np.int32([0, 1] * 10)
    >>> splits, zeros = np.uint8([0] * 10 + [2] * 10), np.zeros(20, np.uint8)
    >>> rows = Manifest(ids, labels, ("cat", "dog"), splits, digests, zeros)
    >>> def features(cut, rows=None, dtype=np.float32):
    ...     return np.eye(20, dtype=dtype)[rows]
    >>> own = types.SimpleNamespace(cuts=("own",), manifest=rows, features=features, softmax=None)
    >>> with warnings.catch_warnings(record=True, action="always") as told:
    ...     result = featbank.run_sweep(own, heads=["ncm"], samples_per_class=[2], repeats=1)
    >>> print(told[0].message)
    1 validation or test image is byte for byte a training image (first: 19 = 0); accuracies are flattered,
    remove the copies and extract again
    """
