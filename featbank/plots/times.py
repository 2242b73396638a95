"""Where the time goes: seconds per stage, cut and head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from featbank.errors import BankError, InvalidInputError, UnknownNameError
from featbank.manifest import printable
from featbank.plots.chart import Entry, note, plain
from featbank.plots.display import Display, drawn_color, text_size
from featbank.plots.figures import run_title, selected_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featbank.runs import Run

__all__ = ["TimesDisplay"]

#: Told apart in grey too.
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "+++")


class TimesDisplay(Display):
    """Seconds spent, a group of bars per cut and a bar per stage or head.

    Parameters
    ----------
    parts : iterable of mapping
        ``what`` (a stage or a head, e.g. ``"extract"`` or ``"softmax"``), ``cut`` (may be None for what
        belongs to no cut), ``duration_s`` (seconds, at least 0) and, where known, ``n`` (how many fits or
        images that is). Parts of one cut and name add up.
    title : str, optional
        Above the figure.
    note : str, optional
        Below the legend.

    Raises
    ------
    InvalidInputError
        If there are no parts, or a duration is no number of seconds.

    Examples
    --------
    >>> parts = [{"what": what, "cut": "fc7", "duration_s": s} for what, s in [("softmax", 2), ("mlp", 61)]]
    >>> display = TimesDisplay(parts).plot()
    >>> [text.get_text() for text in display.ax_.texts]
    ['2.00 s', '61.0 s']
    """

    def __init__(
        self, parts: Iterable[Mapping[str, Any]], *, title: str | None = None, note: str | None = None
    ) -> None:
        self.seconds: dict[tuple[str | None, str], float] = {}
        for part in parts:
            duration_s = float(part["duration_s"])
            if not 0 <= duration_s < float("inf"):
                raise InvalidInputError(
                    f"duration_s={part['duration_s']!r} of {part['what']!r} is no number of seconds"
                )
            key = (part.get("cut"), str(part["what"]))
            self.seconds[key] = self.seconds.get(key, 0.0) + duration_s
        if not self.seconds:
            raise InvalidInputError("no times to draw: nothing was measured")
        self.cuts = list(dict.fromkeys(cut for cut, _ in self.seconds))
        self.names = list(dict.fromkeys(name for _, name in self.seconds))
        self.title = title
        self.note = note

    @classmethod
    def from_run(cls, run: Run, *, cuts: Sequence[str] = (), heads: Sequence[str] = ()) -> TimesDisplay:
        """Make a display of the seconds of fitting per cut and head, and of the passes that extracted cuts.

        A pass is drawn once, however many cuts came from it. The extraction is left out where the bank is
        gone.

        Parameters
        ----------
        run : Run
        cuts, heads : sequence of str, default=()
            Only these; see `featbank.plots.figures.selected_points`.

        Raises
        ------
        InvalidInputError
            If there is no such cut or head.
        """
        result = run.result()
        shown = {one.key for one in selected_points(run, cuts, heads)}
        fits = [one for one in result.fits if one.status == "ok" and one.key in shown]
        order = list(dict.fromkeys([*(result.cuts if not cuts else ()), *(one.cut for one in fits)]))
        note = f"{len(fits)} fits in all"
        parts: list[dict[str, Any]] = []
        try:
            bank = run.open_bank()
            passes = _passes({cut: bank.facts(bank.sources(cut)[0]) for cut in order})
            for members, duration_s in passes:
                parts.append({"what": "extract", "cut": _of_pass(members, order), "duration_s": duration_s})
            note += f"\nextract: {len(bank)} images"
            note += ",\na pass of several cuts once" if any(len(members) > 1 for members, _ in passes) else ""
        except (BankError, UnknownNameError):
            note += "\nthe bank is gone:\nextraction not known"
        parts += [{"what": f"fit {one.head}", "cut": one.cut, "duration_s": one.duration_s} for one in fits]
        parts.sort(key=lambda part: order.index(part["cut"]) if part["cut"] in order else -1)
        return cls(parts, title=run_title(run), note=note)

    def _size(self) -> tuple[float, float]:
        return 8.5, max(2.9, 1.3 + 0.26 * (len(self.seconds) + len(self.cuts)))

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        """Draw the bars, the first cut on top."""
        from matplotlib.patches import Patch

        axes: Axes = panels[0]
        middle: list[float] = []
        at = 0.0
        longest = max(self.seconds.values())
        for cut in self.cuts:
            names = [name for name in self.names if (cut, name) in self.seconds]
            middle.append(at + (len(names) - 1) / 2)
            for name in names:
                value = self.seconds[cut, name]
                axes.barh(at, value, height=0.82, **self._look(name))
                axes.text(value + 0.01 * longest, at, _said(value), va="center", fontsize=text_size(0.85))
                at += 1
            at += 0.6
        axes.set_yticks(middle, ["all cuts" if cut is None else printable(cut) for cut in self.cuts])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.14 * longest if longest > 0 else 1)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("Time (seconds)")
        axes.set_ylabel("Cut (name)")
        entries: list[Any] = [Entry("Stage or head")]
        entries += [Patch(**self._look(name), label=printable(name)) for name in self.names]
        if self.note:
            entries += [Entry("Spent on"), *map(note, self.note.splitlines())]
        return entries

    def _look(self, name: str) -> dict[str, Any]:
        at = self.names.index(name)
        return {
            "facecolor": drawn_color(plain(at)),
            "hatch": _HATCHES[at % len(_HATCHES)],
            "edgecolor": "white",
            "linewidth": 0,
        }


def _said(seconds: float) -> str:
    digits = 2 if seconds < 10 else (1 if seconds < 100 else 0)
    return f"{seconds:,.{digits}f} s"


def _passes(facts: Mapping[str, Mapping[str, Any]]) -> list[tuple[list[str], float]]:
    """Return (cuts, seconds) of the passes over the images: what the bank says of each cut, shared ones once.

    The time of a pass is taken when each cut is settled; that of the last one is all of it.
    """
    found: dict[str, list[str]] = {}
    for cut, said in facts.items():
        if said.get("duration_s") is not None:
            found.setdefault(said.get("passes") or f"of {cut} alone", []).append(cut)
    return [(cuts, max(facts[cut]["duration_s"] for cut in cuts)) for cuts in found.values()]


def _of_pass(members: Sequence[str], order: Sequence[str]) -> str | None:
    """Name the cuts of a pass: None for all there are, else from shallow to deep, the middle left out."""
    if len(members) == len(order) > 1:
        return None
    named = sorted(members, key=order.index)
    return " + ".join(named if len(named) < 3 else [named[0], f"{len(named) - 2} more", named[-1]])
