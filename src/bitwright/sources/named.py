"""Networks by name from timm and torchvision, with the preparation of images that their weights were trained with."""

import importlib
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from bitwright.sources.network import Network
from bitwright.sources.pictures import ResizeAndCrop

RESAMPLINGS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's numbers


def load_timm(name: str, *, has_weights: bool = True) -> Network:
    """A network of timm, its weights fetched by timm where they are not in its cache."""
    timm = imported("timm")
    require_known("timm", name.partition(".")[0], timm.list_models())
    model = made("timm", name, lambda: timm.create_model(name, pretrained=has_weights))
    found = timm.data.resolve_model_data_config(model)
    size = int(found["input_size"][1])
    prepare = ResizeAndCrop(
        size, round(size / found["crop_pct"]), tuple(found["mean"]), tuple(found["std"]),
        RESAMPLINGS[found["interpolation"]],
    )  # fmt: skip
    return Network(model.eval(), name, f"timm:{name}", prepare=prepare, outputs=model.num_classes or None)


def load_torchvision(name: str, *, has_weights: bool = True) -> Network:
    """A network of torchvision with its default weights, fetched where they are not in its cache."""
    models = imported("torchvision").models
    require_known("torchvision", name, models.list_models())
    weights = models.get_model_weights(name).DEFAULT
    model = made("torchvision", name, lambda: models.get_model(name, weights=weights if has_weights else None))
    found = weights.transforms()
    classes = {label: index for index, label in enumerate(weights.meta.get("categories", ()))}
    prepare = ResizeAndCrop(
        found.crop_size[0], found.resize_size[0], tuple(found.mean), tuple(found.std),
        RESAMPLINGS[found.interpolation.value],
    )  # fmt: skip
    return Network(
        model.eval(), name, f"torchvision:{name}", prepare=prepare, outputs=len(classes) or None, classes=classes
    )


def imported(library: str) -> Any:
    """The library; a sentence where it is missing, or is no build for this torch."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ImportError(f"{library}:name needs {error.name or library}; pip install 'bitwright[{library}]'") from None
    except RuntimeError as error:  # its operators are not there
        import torch

        raise ImportError(
            f"{library}:name needs a torchvision that is built for torch {torch.__version__} ({error}); install the "
            "two from the same index"
        ) from None


def require_known(library: str, name: str, names: Iterable[str]) -> None:
    known = list(names)
    if name not in known:
        near = get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"it has {len(known)}, see its list_models()"
        raise ValueError(f"{library} has no network {name!r}; {hint}")


def made(library: str, name: str, build: Any) -> Any:
    """ValueError where the weights cannot be fetched."""
    try:
        return build()
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{library}:{name} cannot be loaded ({reason}); fetch its weights where there is a network"
        ) from None
