"""Images and spectrograms from npz files, and their way into the units that a network was trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitwright.model.data.samples import Reader, Samples
from bitwright.model.task import Batch

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]; torchvision's constants
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of RGB

Resize = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n c h2 w2"]]


@final
@dataclass(frozen=True)
class Arrays(Reader):
    """An npz with an array of inputs and an array of classes."""

    file: str
    inputs: str = "x"
    targets: str = "y"

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def read(self, folder: Path, chosen: range) -> Samples:
        with (folder / self.file).open("rb") as file:
            stored = np.load(file)
            return Samples(stored[self.inputs][chosen], stored[self.targets][chosen].astype(np.int64))


@final
@dataclass(frozen=True)
class Jpegs(Reader):
    """An npz of concatenated JPEG files with offsets and labels, cropped to the rows and columns of `window`."""

    file: str
    window: tuple[int, int | None] = (0, None)  # first and end

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def read(self, folder: Path, chosen: range) -> Samples:
        with (folder / self.file).open("rb") as file:
            stored = np.load(file)
            content, offset, label = stored["jpeg"], stored["offset"], stored["label"]
        images = [decode_jpeg(content[offset[index] : offset[index + 1]].tobytes()) for index in chosen]
        kept = slice(*self.window)
        pixels = np.stack([image[kept, kept] for image in images])
        return Samples(pixels, label[chosen].astype(np.int64))


@final
@dataclass(frozen=True)
class SuperResolution(Reader):
    """Luma pairs of an npz with images HR_1 ...: half the size in, rounded to 8 bits, and full size out.

    The small image is made here by bicubic reduction without antialiasing, which is what ESPCN x2 was trained on;
    the file's own LR images are antialiased.
    """

    file: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def read(self, folder: Path, chosen: range) -> Samples:
        with (folder / self.file).open("rb") as file:
            stored = np.load(file)
            large = [stored[f"HR_{index + 1}"] for index in chosen]
        return Samples([luma(halve(image)) for image in large], [luma(image) for image in large])


def decode_jpeg(content: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("JPEG images need Pillow; pip install 'bitwright[images]'") from error
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


def halve(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Bicubic with a = -0.75 and without antialiasing."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(planes, scale_factor=0.5, mode="bicubic", align_corners=False)
    return small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


def luma(image: UInt8[np.ndarray, "*n h w 3"]) -> Float[np.ndarray, "*n h w"]:
    """Y in [0, 255]."""
    return image.astype(np.float64) @ np.array(LUMA)


def as_it_is(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    return images


def to_vww_size(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 96 96"]:
    return torch.nn.functional.interpolate(images, size=(96, 96), mode="bilinear", antialias=True)


@final
@dataclass(frozen=True)
class Normalize:
    """(x - mean) / deviation per channel, as a batch [n, c, h, w] of classes. Both in units of the stored pixels."""

    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (255.0,)
    resize: Resize = as_it_is

    def __call__(self, samples: Samples) -> Batch:
        pixels = np.asarray(samples.inputs)
        planes = pixels.transpose(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]
        images = self.resize(torch.from_numpy(np.ascontiguousarray(planes)).float())
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        return Batch(((images - mean) / deviation,), torch.as_tensor(samples.targets))


IMAGENET_NORMALIZE = Normalize(
    tuple(255 * mean for mean in IMAGENET_MEAN), tuple(255 * deviation for deviation in IMAGENET_DEVIATION)
)


def small_and_large_luma(samples: Samples) -> Batch:
    """Luma [n, 1, h, w] in [0, 1], and the full-size luma [n, 1, 2h, 2w] in [0, 255]."""
    small, large = (torch.from_numpy(np.stack(list(images))[:, None]) for images in (samples.inputs, samples.targets))
    return Batch(((small / 255).float(),), large)


def luma_alone(samples: Samples) -> Batch:
    """Luma [n, 1, h, w] in [0, 1] of RGB images; the class of an image is no target here, so all are -1."""
    planes = torch.from_numpy(luma(np.asarray(samples.inputs))[:, None])
    return Batch(((planes / 255).float(),), torch.full((len(samples),), -1))


@final
@dataclass(frozen=True)
class Unlabelled:
    """Another preparation with the targets taken away: all are -1."""

    prepare: Callable[[Samples], Batch]

    def __call__(self, samples: Samples) -> Batch:
        return Batch(self.prepare(samples).inputs, torch.full((len(samples),), -1))
