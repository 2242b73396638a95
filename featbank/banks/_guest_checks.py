"""What is checked of the features and the facts of a stranger's bank, wherever they come from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.banks._bank_files import CutDocument
from featbank.banks._guest import GuestError
from featbank.banks._manifest_file import StoredManifest
from featbank.banks._shard_file import Measures
from featbank.banks.slots import ShardPlan
from featbank.manifest import RowStatus

#: Longest text in a document that anybody is shown.
LONGEST_TEXT = 2000

_FACT = re.compile(r"[a-z0-9_]{1,40}")
_MOST_FACTS = 64
_NUMBERS = frozenset({"precision_error", "duration_s", *asdict(Measures())})

#: Plan, features, statuses, and what made it.
Shard = tuple[ShardPlan, NDArray[Any], NDArray[np.uint8], dict[str, str]]


def checked_shards(
    shards: Iterable[Shard], cut: str, document: CutDocument, stored: StoredManifest
) -> Iterator[Shard]:
    """Pass the shards of a cut on, one by one, if they can be what an extraction writes; `GuestError`."""
    check_facts(cut, document.facts)
    layout, table = document.layout, stored.table
    measures, present = Measures(), set()
    for plan, features, statuses, made_by in shards:
        shard = f"shard {plan.number} of cut {cut!r}"
        if (statuses > max(RowStatus)).any() or features[statuses != RowStatus.OK].any():
            raise GuestError(f"{shard} has rows that cannot be")
        found = Measures.of(features, statuses)
        if found.n_nonfinite:
            raise GuestError(f"{shard} has {found.n_nonfinite} values that are no finite numbers")
        measures += found
        present.add(plan.number)
        yield plan, features, statuses, made_by
    plans = table.plan(layout.shard_rows)
    starts = np.array([plan.start for plan in plans], np.int64)
    needed = set((np.searchsorted(starts, stored.row_slots, side="right") - 1).tolist())
    if not needed <= present & document.shards:
        raise GuestError(f"cut {cut!r} lacks shards")
    wrong = [
        name
        for name, value in asdict(measures).items()
        if present == document.shards and document.facts.get(name, value) != value
    ]
    if wrong:
        raise GuestError(f"cut {cut!r} says of itself what is not so: {', '.join(wrong)}")


def check_facts(cut: str, facts: Mapping[str, Any]) -> None:
    """Let in only facts of the kinds an extraction records; commands show them as numbers."""
    for name, value in facts.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        good = value is None or isinstance(value, (bool, str)) or (is_number and math.isfinite(value))
        if name in _NUMBERS:
            good = value is None or (is_number and math.isfinite(value))
        if isinstance(value, str):
            good = good and len(value) <= LONGEST_TEXT and value.isprintable()
        if not good or not _FACT.fullmatch(name):
            raise GuestError(f"cut {cut!r} has a fact {name[:80]!r} that featbank does not write")
    if len(facts) > _MOST_FACTS:
        raise GuestError(f"cut {cut!r} has {len(facts)} facts")
