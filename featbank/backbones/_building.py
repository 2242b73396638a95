"""Build the module of a backbone: untrained, or as shapes alone on the meta device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from featbank._lean_imports import import_torchvision
from featbank.backbones._spec import BackboneSpec

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
        Whether weights that nobody will load need torchvision's initial values; skipping them is faster
        for GoogLeNet and Inception v3.

    Returns
    -------
    torch.nn.Module
        In eval mode; without the auxiliary heads, which serve training only.
    """
    if spec.name == "minivgg":
        from featbank.backbones.minivgg import build_minivgg

        return build_minivgg(n_classes).eval()
    import_torchvision()
    from torchvision import models

    options: dict[str, Any] = {"num_classes": n_classes}
    if spec.auxiliary:
        # The published weights of these two expect input in [-1, 1], which the network computes from
        # ImageNet-normalised images; torchvision switches that on with its weights, we do so always.
        options |= {"aux_logits": False, "transform_input": spec.transform_input, "init_weights": initialise}
    elif spec.name.startswith("vit_"):
        options["image_size"] = image_size
    module: nn.Module = models.get_model(spec.name, weights=None, **options)
    return module.eval()


def build_on_meta(
    spec: BackboneSpec, *, n_classes: int | None = None, image_size: int | None = None
) -> nn.Module:
    """Build a backbone whose tensors have shapes but no memory, in a few milliseconds."""
    import torch

    n_classes = spec.n_classes if n_classes is None else n_classes
    image_size = spec.default_image_size if image_size is None else image_size
    place = _parameters_on_meta() if spec.name.startswith("regnet") else torch.device("meta")
    with place, _without_initial_values():
        module = build_module(spec, n_classes=n_classes, image_size=image_size, initialise=False)
    return module.to("meta")


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
    """Put only parameters on the meta device; RegNet computes its widths with real tensors."""
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
