"""Settling how to compute: the fastest arithmetic a batch proves close to float32, compiled if it repays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featbank.banks import Bank
from featbank.errors import BankNotFoundError, InvalidInputError
from featbank.extraction.compiling import cannot_compile, estimate_compile
from featbank.extraction.forward import Forward
from featbank.extraction.precision import COMPILED_LIMIT, ERROR_LIMIT, PrecisionProof, native_precisions

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Settlement", "candidates", "proved_errors", "settle"]

logger = logging.getLogger(__name__)

#: With fewer batches than this nothing is timed: compiling has never repaid so soon.
_LEAST_BATCHES = 4


@dataclass(frozen=True)
class Settlement:
    """What was asked for, and what is known of the work.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16", "float16"}
        ``auto`` takes the fastest native one if a batch proves it close to float32.
    compile : {"auto", "on", "off"}
        ``auto`` compiles where the images to push repay it.
    n_batches : int
        Batches to push, at most, each of as many images as are compared.
    begun : tuple of (str, bool)
        (precision, compiled) of the banks that hold features of these images already, most wanted first:
        they are continued rather than begun anew.
    batch_sizes : mapping of str to int
        Precision -> images to push together; the forward pass keeps its own where nothing is said.
    """

    precision: str
    compile: str
    n_batches: int
    begun: tuple[tuple[str, bool], ...] = ()
    batch_sizes: Mapping[str, int] = field(default_factory=dict)


def candidates(precision: str, compile: str, native: Sequence[str]) -> list[tuple[str, bool]]:
    """List the (precision, compiled) that the options allow, most wanted first."""
    precisions = native if precision == "auto" else [precision]
    engines = {"auto": [True, False], "on": [True], "off": [False]}[compile]
    return [(one, compiled) for one in precisions for compiled in engines]


def settle(
    forward: Forward,
    asked: Settlement,
    cuts: Sequence[str],
    first_batch: Callable[[], NDArray[np.uint8] | Tensor],
) -> PrecisionProof:
    """Set precision and compiling of `forward`, and return what a batch said of them.

    Parameters
    ----------
    forward : Forward
        Its `precision`, `compiled` and `batch_size` are set.
    asked : Settlement
    cuts : sequence of str
        What is compared.
    first_batch : callable
        Gives the images to compare on; called once at most, and only if there is something to compare.

    Returns
    -------
    PrecisionProof

    Raises
    ------
    InvalidInputError
        If the network was to be compiled and cannot be.
    """
    return _Settling(forward, asked, tuple(cuts), first_batch).settle()


class _Settling:
    def __init__(
        self,
        forward: Forward,
        asked: Settlement,
        cuts: tuple[str, ...],
        first_batch: Callable[[], NDArray[np.uint8] | Tensor],
    ) -> None:
        self.forward, self.asked, self.cuts = forward, asked, cuts
        self._first_batch = first_batch
        self._images: NDArray[np.uint8] | Tensor | None = None
        self._exact: dict[str, Tensor] | None = None

    @property
    def images(self) -> NDArray[np.uint8] | Tensor:
        if self._images is None:
            self._images = self._first_batch()
        return self._images

    def prove(self) -> PrecisionProof:
        forward = self.forward
        if forward.precision == "float32" and not forward.compiled:
            return PrecisionProof("float32", dict.fromkeys(self.cuts, 0.0))
        if self._exact is None:
            self._exact = forward.exact(self.images, self.cuts)
        return forward.prove(self.images, self.cuts, self._exact)

    def settle(self) -> PrecisionProof:
        proof = self.settle_precision()
        if not self.compiles():
            return proof
        self.forward.compiled = True
        try:
            compiled = self.prove()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            said = f"the network could not be compiled ({reason[:200]})"
            if self.asked.compile == "on":
                raise InvalidInputError(f"compile='on': {said}; use auto or off") from error
            return self.without_compiling(said, proof)
        limit = COMPILED_LIMIT if self.forward.precision == "float32" else ERROR_LIMIT
        worst = max(compiled.errors, key=lambda cut: compiled.errors[cut])
        if compiled.errors[worst] > limit and self.asked.compile == "auto":
            off = f"the compiled network is {compiled.errors[worst]:.2g} off float32 at {worst!r}"
            return self.without_compiling(f"{off} (limit {limit:g})", proof)
        return PrecisionProof(compiled.precision, compiled.errors, rejected=proof.rejected)

    def without_compiling(self, because: str, proof: PrecisionProof) -> PrecisionProof:
        logger.warning("%s; going on without compiling", because)
        self.forward.compiled, self.forward.compile_s = False, None
        return proof

    def take(self, precision: str) -> None:
        forward = self.forward
        forward.precision, forward.compiled = precision, False
        forward.batch_size = self.asked.batch_sizes.get(precision, forward.batch_size)

    def settle_precision(self) -> PrecisionProof:
        asked = self.asked.precision
        wanted = native_precisions(self.forward.device) if asked == "auto" else (asked,)
        rejected: str | None = None
        for precision, otherwise in zip(wanted, (*wanted[1:], None), strict=True):
            self.take(precision)
            proof = self.prove()
            over = {cut: error for cut, error in proof.errors.items() if not error <= ERROR_LIMIT}
            if not over:
                break
            worst = max(over, key=lambda cut: over[cut])
            said = f"{precision} is {over[worst]:.1%} off float32 at {worst!r} (limit {ERROR_LIMIT:.0%})"
            if otherwise is None:
                logger.warning("%s; it was asked for, so it is used", said)
                break
            logger.warning(
                "%s; using %s", said, otherwise if otherwise == "float32" else f"{otherwise} if close"
            )
            rejected = precision if rejected is None else f"{rejected}, {precision}"
        return replace(proof, rejected=rejected)

    def compiles(self) -> bool:
        forward, asked = self.forward, self.asked
        if asked.compile != "auto":
            return asked.compile == "on"
        for precision, compiled in asked.begun:
            if precision == forward.precision:
                return compiled and cannot_compile(forward.device) is None
        # a GPU waits for images and for the disk, not for arithmetic
        if forward.device.type != "cpu" or asked.n_batches < _LEAST_BATCHES:
            return False
        if cannot_compile(forward.device) is not None:
            return False
        network = forward.network(self.cuts)
        estimate = estimate_compile(lambda: forward.trial(self.images, self.cuts), network)
        repays = estimate.repays(asked.n_batches)
        logger.info(
            "%s: %.2f s per batch, compiled about %.2f s after %.0f s of compiling; %d batches to push",
            "compiling" if repays else "not compiling",
            estimate.eager_s,
            estimate.compiled_s,
            estimate.compile_s,
            asked.n_batches,
        )
        return repays


def proved_errors(bank: Path, cuts: Sequence[str]) -> dict[str, float] | None:
    """Return the errors a bank's cuts were proved at, or None if one of them has not been."""
    if not bank.is_dir():
        return None
    try:
        opened = Bank.open(bank, check="size")
    except BankNotFoundError:
        return None
    if not set(cuts) <= set(opened.cuts):
        return None
    errors = {cut: opened.facts(cut).get("precision_error") for cut in cuts}
    return None if None in errors.values() else {cut: float(error or 0) for cut, error in errors.items()}
