"""Fine-tuning: which layers of a backbone move, and what that costs against a bank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import nn

    from featbank.backbones import Backbone

__all__ = ["Unfrozen", "check_unfreeze", "unfrozen"]


@dataclass(frozen=True)
class Unfrozen:
    """A backbone with some of its layers let loose.

    Parameters
    ----------
    asked : str
        As `unfrozen` takes it.
    owner : str
        Name of the backbone.
    moving : tuple of int
        Numbers, from 1, of the layers that move besides the new last one.
    n_layers : int
        Layers with weights, the last one included.
    build : callable
        Takes the number of classes, returns the network; what stays frozen wants no gradient.
    """

    asked: str
    owner: str
    moving: tuple[int, ...]
    n_layers: int
    build: Callable[[int], nn.Module]

    def cost(self, n_images: int, epochs: int) -> str:
        """Say what training costs, and what a head on a bank would."""
        first = min((*self.moving, self.n_layers))
        frozen = first - 1
        # Backwards costs about twice what forwards does, through the layers behind the first that moves.
        passes = epochs * (1 + 2 * (self.n_layers - frozen) / self.n_layers)
        said = (
            f"{len(self.moving) + 1} of {self.n_layers} layers of {self.owner} move, the first is number "
            f"{first}: each of {epochs} epochs pushes {n_images:,} images through all of it, in all the work "
            f"of about {passes:.0f} forward passes; a bank takes one, whatever is fitted on it"
        )
        if frozen:
            said += f" (the {frozen} frozen layers in front could come from a bank)"
        return said


def unfrozen(backbone: Backbone, asked: str) -> Unfrozen:
    """Let layers of a backbone loose, under a new last one.

    Parameters
    ----------
    backbone : Backbone
    asked : str
        ``"every:N"`` (each Nth layer with weights), ``"N"`` (the last N before the new one), ``"none"`` or
        ``"all"``. The batch norm behind a layer moves with it, statistics included.

    Returns
    -------
    Unfrozen

    Raises
    ------
    InvalidInputError
        If `asked` is none of these, or the backbone has no classifier to replace.

    Examples
    --------
    >>> from featbank.backbones import load_backbone
    >>> unfrozen(load_backbone("minivgg", weights="random"), "every:3").moving
    (3, 6, 9, 12, 15)
    """
    from featbank.backbones.loading import build_untrained

    head = backbone.spec.head_key.rpartition(".")[0]
    if not head:
        raise InvalidInputError(f"backbone {backbone.name!r} has no last layer that is known; choose another")
    groups = layers(backbone.module)
    names = list(groups)
    if names[-1] != head:  # a layer that is registered behind the last one, as auxiliary heads are
        names = [one for one in names if one != head]
        names.append(head)
    n_before = len(names) - 1
    moving = _moving(asked, n_before)
    loose = {groups_name for number in moving for groups_name in groups[names[number - 1]]}
    state = backbone.module.state_dict()

    def build(n_classes: int) -> nn.Module:
        module = build_untrained(backbone, n_classes)
        own = module.state_dict()
        kept = {name: one for name, one in state.items() if name in own and own[name].shape == one.shape}
        # the last layer is new even where the number of classes is the same
        kept = {name: one for name, one in kept.items() if not name.startswith(f"{head}.")}
        module.load_state_dict(kept, strict=False)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in loose or name.startswith(f"{head}."))
        return module

    return Unfrozen(asked, backbone.name, moving, len(names), build)


def layers(module: nn.Module) -> dict[str, list[str]]:
    """Return the layers with weights, in order, and the names of their parameters, batch norm included."""
    found: dict[str, list[str]] = {}
    for path, part in module.named_modules():
        own = dict(part.named_parameters(prefix=path, recurse=False))
        if any(one.ndim > 1 for one in own.values()) or (own and not found):
            found[path] = list(own)
        elif own:  # a norm
            found[list(found)[-1]] += own
    return found


def check_unfreeze(asked: str) -> None:
    """Raise `InvalidInputError` for what no backbone whatever has such layers for."""
    number = asked.removeprefix("every:")
    if asked not in ("all", "none") and not (number.isdecimal() and int(number)):
        raise InvalidInputError(f"unfreeze={asked!r} is none of 'every:N', 'N', 'none', 'all'")


def _moving(asked: str, n_before: int) -> tuple[int, ...]:
    """Return the numbers of the layers that move, of those before the last."""
    every, colon, step = asked.partition(":")
    if asked in ("all", "none"):
        return tuple(range(1, n_before + 1)) if asked == "all" else ()
    if every == "every" and colon and step.isdecimal() and 1 <= int(step) <= n_before:
        return tuple(range(int(step), n_before + 1, int(step)))
    if asked.isdecimal() and 1 <= int(asked) <= n_before:
        return tuple(range(n_before - int(asked) + 1, n_before + 1))
    raise InvalidInputError(
        f"unfreeze={asked!r} is none of 'every:N' and 'N' with N from 1 to {n_before}, 'none', 'all'"
    )
