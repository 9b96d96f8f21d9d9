"""From an image file's bytes to a network's input. Nothing is decoded before its size is known to be sane."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any, final

import numpy as np
from jaxtyping import Float

from bitwright.model.data.images import IMAGENET_DEVIATION, IMAGENET_MEAN
from bitwright.sources.records import LARGEST_IMAGE, Picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # others run interpreters or hold many images


def decode(picture: Picture) -> Any:
    """An RGB image of Pillow's. ValueError naming where it stands when it is damaged or too large."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("reading images needs Pillow; pip install 'bitwright[images]'") from None
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at below
            image = Image.open(BytesIO(picture.content), formats=FORMATS)
        width, height = image.size
        if width * height > LARGEST_IMAGE:
            raise ValueError(f"{width} × {height} pixels, at most {LARGEST_IMAGE} are read")
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{picture.where} is no image that is read ({error}); leave it out, or save it as {', '.join(FORMATS)}"
        ) from None


@final
@dataclass(frozen=True)
class ResizeAndCrop:
    """The shorter side to `resize`, the middle `size` × `size`, then (x / 255 - mean) / deviation, each channel."""

    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    deviation: tuple[float, ...] = IMAGENET_DEVIATION
    resample: int = 2  # Pillow's bilinear

    def __call__(self, image: Any) -> Float[np.ndarray, "c h w"]:
        scale = self.resize / min(image.size)
        resized = image.resize([max(round(s * scale), self.size) for s in image.size], self.resample)
        left, top = ((s - self.size) // 2 for s in resized.size)
        pixels = np.asarray(resized.crop((left, top, left + self.size, top + self.size)), np.float32) / 255
        x = (pixels - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return np.ascontiguousarray(x.transpose(2, 0, 1))
