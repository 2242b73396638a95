"""Where the time goes: seconds per stage, cut and head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from featbank import drawing
from featbank.display import Display
from featbank.errors import InvalidInputError
from featbank.manifest import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
                axes.text(value + 0.01 * longest, at, _said(value), va="center", fontsize=8.5)
                at += 1
            at += 0.6
        axes.set_yticks(middle, ["all cuts" if cut is None else printable(cut) for cut in self.cuts])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.14 * longest if longest > 0 else 1)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("Time (seconds)")
        axes.set_ylabel("Cut (name)")
        entries: list[Any] = [drawing.heading("Stage or head")]
        entries += [Patch(**self._look(name), label=printable(name)) for name in self.names]
        if self.note:
            entries += [drawing.heading(""), *map(drawing.note, self.note.splitlines())]
        return entries

    def _look(self, name: str) -> dict[str, Any]:
        at = self.names.index(name)
        return {
            "facecolor": drawing.OKABE_ITO[at % len(drawing.OKABE_ITO)],
            "hatch": _HATCHES[at % len(_HATCHES)],
            "edgecolor": "white",
            "linewidth": 0,
        }


def _said(seconds: float) -> str:
    digits = 2 if seconds < 10 else (1 if seconds < 100 else 0)
    return f"{seconds:,.{digits}f} s"
