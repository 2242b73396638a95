"""Settling how to compute: the fastest arithmetic a batch proves close to float32, compiled if it repays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featbank.banks import Bank, BankKey
from featbank.errors import FeatbankError, InvalidInputError
from featbank.extraction.compiling import cannot_compile
from featbank.extraction.forward import Forward
from featbank.extraction.precision import (
    COMPILED_LIMIT,
    ERROR_LIMIT,
    PrecisionProof,
    native_precisions,
    split_precision,
    tell_error,
)
from featbank.manifest import Manifest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Begun", "Settlement", "begun_banks", "proved_errors", "settle"]

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
    batch_sizes : mapping of str to int
        Precision -> images to push together; the forward pass keeps its own where nothing is said.
    """

    precision: str
    compile: str
    n_batches: int
    batch_sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Begun:
    """A bank that what was asked for explicitly fits.

    Parameters
    ----------
    bank : Bank
        With the rows asked for, as `Bank.with_rows` gives it.
    errors : mapping of str to float, or None
        What its arithmetic was proved at, at every cut asked for; None if it has not been proved at one.
    complete : bool
        Whether nothing is left to push at these cuts.
    """

    bank: Bank
    errors: Mapping[str, float] | None
    complete: bool


def begun_banks(
    banks: Iterable[Bank],
    key: BankKey,
    manifest: Manifest,
    cuts: Sequence[str],
    *,
    precision: str,
    compile: str,
    batch_size: int | None,
) -> list[Begun]:
    """List the banks to continue rather than to begin another, the one that has most of what is asked first.

    What was chosen for a bank when it was begun goes with it: on another machine, in another mood of this
    one, or with more images, the automatic choice would be another one, and nothing stored would be reused.

    Parameters
    ----------
    banks : iterable of Bank
        Those of this dataset and backbone.
    key : BankKey
        What is asked for; its precision and batch size are those this machine would choose.
    manifest : Manifest
        The rows asked for.
    cuts : sequence of str
        The cuts asked for.
    precision, compile, batch_size
        As they were given: ``"auto"`` and None fit anything.
    """
    found = []
    for bank in banks:
        name, compiled = split_precision(bank.key.precision)
        if (
            replace(bank.key, precision=key.precision, batch_size=key.batch_size) != key
            or precision not in ("auto", name)
            or compile not in ("auto", "on" if compiled else "off")
            or batch_size not in (None, bank.key.batch_size)
        ):
            continue
        planned = bank.with_rows(manifest)
        done, started = set(planned.cuts), {*planned.cuts, *planned.partial_cuts}
        rank = (
            sum(cut in done for cut in cuts),
            sum(cut in started for cut in cuts),
            bank.key == key,
            bank.key.batch_size == key.batch_size,
            bank.path.stat().st_mtime,
        )
        found.append((rank, Begun(planned, proved_errors(bank, cuts), done.issuperset(cuts))))
    return [one for _, one in sorted(found, key=lambda pair: pair[0], reverse=True)]


def proved_errors(bank: Bank, cuts: Sequence[str]) -> dict[str, float] | None:
    """Return the errors a bank's arithmetic was proved at, or None if it has not been at one of the cuts."""
    if bank.key.precision == "float32":
        return dict.fromkeys(cuts, 0.0)
    known = dict(bank.provenance.get("precision_errors") or {})
    for cut in {*bank.cuts, *bank.partial_cuts}:
        known[cut] = bank.facts(cut).get("precision_error", known.get(cut))
    errors = {cut: known.get(cut) for cut in cuts}
    return None if None in errors.values() else {cut: float(error or 0) for cut, error in errors.items()}


def settle(
    forward: Forward,
    asked: Settlement,
    cuts: Sequence[str],
    first_batch: Callable[[], NDArray[np.uint8] | Tensor],
    begun: Sequence[Begun] = (),
) -> PrecisionProof:
    """Set precision, compiling and batch size of `forward`, and return what a batch said of them.

    Parameters
    ----------
    forward : Forward
        Its `precision`, `compiled` and `batch_size` are set.
    asked : Settlement
    cuts : sequence of str
        What is compared.
    first_batch : callable
        Gives the images to compare on; called once at most, and only if there is something to compare.
    begun : sequence of Begun
        Banks to continue, the most wanted first. One is passed over only if its arithmetic cannot be had
        here, or, where the precision is left to ``auto``, if it is too far off float32 at a cut asked for.

    Returns
    -------
    PrecisionProof

    Raises
    ------
    InvalidInputError
        If the network was to be compiled and cannot be.
    """
    settling = _Settling(forward, asked, tuple(cuts), first_batch)
    for one in begun:
        proof = settling.continued(one)
        if proof is not None:
            return proof
    return settling.settle()


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
        self._told: set[str] = set()

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

    def continued(self, begun: Begun) -> PrecisionProof | None:
        """Take what a bank was begun with; None, with the reason in the log, where that cannot be."""
        forward, key = self.forward, begun.bank.key
        precision, compiled = split_precision(key.precision)
        if not begun.complete:
            cannot = cannot_compile(forward.device) if compiled else None
            if precision == "float16" and forward.device.type != "cuda":
                cannot = "float16 needs a CUDA device"
            if cannot is not None:
                logger.warning("bank %s cannot be continued here: %s", begun.bank.name, cannot)
                return None
        self.take(precision)
        forward.compiled, forward.batch_size = compiled, key.batch_size
        if begun.complete or (begun.errors is not None and not compiled):  # else: does it compile here?
            return PrecisionProof(precision, begun.errors or {})
        try:
            proof = self.prove()
        except FeatbankError:
            raise
        except Exception as error:
            if not compiled:
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            if self.asked.compile == "on":
                raise InvalidInputError(
                    f"compile='on': the network could not be compiled ({reason}); use auto or off"
                ) from error
            logger.warning(
                "bank %s cannot be continued here: the network could not be compiled (%s)",
                begun.bank.name,
                reason,
            )
            return None
        worst = max(proof.errors, key=lambda cut: proof.errors[cut])
        if proof.errors[worst] <= self.limit or self.asked.precision != "auto":
            if proof.errors[worst] > ERROR_LIMIT:
                self.tell(precision, worst, proof.errors[worst], "it was asked for, so it is used")
            return proof
        self.tell(precision, worst, proof.errors[worst], f"bank {begun.bank.name} is not continued")
        return None

    @property
    def limit(self) -> float:
        """Largest error of what `forward` is set to."""
        return COMPILED_LIMIT if self.forward.precision == "float32" else ERROR_LIMIT

    def tell(self, precision: str, cut: str, error: float, consequence: str) -> None:
        """Say once how far off a precision is."""
        if precision not in self._told:
            self._told.add(precision)
            tell_error(precision, cut, error, ERROR_LIMIT, consequence)

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
        worst = max(compiled.errors, key=lambda cut: compiled.errors[cut])
        if compiled.errors[worst] > self.limit and self.asked.compile == "auto":
            off = f"the compiled network is {compiled.errors[worst]:.2g} off float32 at {worst!r}"
            return self.without_compiling(f"{off} (limit {self.limit:g})", proof)
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
        rejected: list[str] = []
        for precision in wanted:
            self.take(precision)
            proof = self.prove()
            over = {cut: error for cut, error in proof.errors.items() if not error <= ERROR_LIMIT}
            if not over:
                break
            worst = max(over, key=lambda cut: over[cut])
            if precision == wanted[-1]:
                self.tell(precision, worst, over[worst], "it was asked for, so it is used")
            else:
                self.tell(precision, worst, over[worst], f"using {' or '.join(wanted[len(rejected) + 1 :])}")
                rejected.append(precision)
        return replace(proof, rejected=", ".join(rejected) or None)

    def compiles(self) -> bool:
        forward, asked = self.forward, self.asked
        if asked.compile != "auto":
            return asked.compile == "on"
        if asked.n_batches < _LEAST_BATCHES:
            return False
        if cannot_compile(forward.device) is not None:
            return False
        estimate = forward.estimate_compile(self.images, self.cuts)
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
