"""Build the module of a backbone: untrained, or as shapes alone on the meta device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from featbank.backbones.families import family_of
from featbank.backbones.spec import BackboneSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_module", "build_on_meta"]


def build_module(spec: BackboneSpec, *, n_classes: int, image_size: int, initialise: bool) -> nn.Module:
    """Build a backbone without trained weights, in eval mode.

    Parameters
    ----------
    spec : BackboneSpec
        What to build.
    n_classes : int
        Number of logits.
    image_size : int
        Side of the square input in pixels; only vision transformers are built for one size.
    initialise : bool
        Whether weights that nobody will load need their initial values; skipping them is faster for
        GoogLeNet and Inception v3.

    Returns
    -------
    torch.nn.Module
        In eval mode; without the auxiliary heads, which serve training only.
    """
    family, name = family_of(spec.name)
    module = family.build(name, n_classes=n_classes, image_size=image_size, initialise=initialise)
    return module.eval()


def build_on_meta(
    spec: BackboneSpec, *, n_classes: int | None = None, image_size: int | None = None
) -> nn.Module:
    """Build a backbone whose tensors have shapes but no memory, in a few milliseconds."""
    import torch

    n_classes = spec.n_classes if n_classes is None else n_classes
    image_size = spec.default_image_size if image_size is None else image_size
    options: dict[str, Any] = {"n_classes": n_classes, "image_size": image_size, "initialise": False}
    try:
        with torch.device("meta"), _without_initial_values():
            return build_module(spec, **options)
    except (RuntimeError, NotImplementedError):  # it computes with tensors, as RegNet does its widths
        with _parameters_on_meta(), _without_initial_values():
            return build_module(spec, **options).to("meta")


def _without_initial_values() -> contextlib.AbstractContextManager[Any]:
    """Skip drawing numbers that have no memory: for that torch imports its compiler, over a second."""
    from torch import Tensor
    from torch.overrides import TorchFunctionMode

    drawing = {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_}

    class WithoutInitialValues(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if function in drawing or getattr(function, "__module__", "") == "torch.nn.init":
                tensor = args[0] if args else (kwargs or {})["tensor"]
                if tensor.is_meta:
                    return tensor
            return function(*args, **(kwargs or {}))

    return WithoutInitialValues()


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Put only parameters on the meta device."""
    from torch import nn
    from torch.nn.modules.module import register_module_parameter_registration_hook

    def without_numbers(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        del module, name
        return nn.Parameter(parameter.detach().to("meta"))

    # torch's annotation forgets that the hook may return another parameter.
    handle = register_module_parameter_registration_hook(without_numbers)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()
