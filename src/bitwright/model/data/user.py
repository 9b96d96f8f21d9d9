"""Data of the caller's: an array file or a folder of images, as batches of inputs and class targets."""

import zipfile
from pathlib import Path

import numpy as np
import torch

from bitwright.model.task import Batch

BATCH = 32

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read_batches(
    path: Path, *, image_size: int = 224, calibration_samples: int = 64
) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
    """Calibration and test batches of `path`.

    An .npz file holds `x` (float32, first axis samples) and `y` (integer classes), and optionally `calibration`, inputs
    that are not tested on. A folder holds one folder of images a class, in alphabetical order; images are resized and
    cropped to `image_size`, scaled to [0, 1] and normalised with ImageNet's mean and deviation. Without separate
    calibration inputs every k-th sample calibrates and is left out of the test.
    """
    if path.is_dir():
        x, y = _read_images(path, image_size)
        calibration = None
    else:
        x, y, calibration = _read_arrays(path)
    if len(x) != len(y):
        raise ValueError(f"{path}: {len(x)} inputs and {len(y)} targets found; there must be one target an input")
    if len(x) < 2:
        raise ValueError(f"{path}: {len(x)} samples found; at least 2 are needed to calibrate and to test")
    if calibration is None:
        every = max(len(x) // calibration_samples, 2)
        held = np.arange(len(x)) % every == 0
        calibration, x, y = x[held], x[~held], y[~held]
    return _batches(calibration, np.full(len(calibration), -1)), _batches(x, y)


def _read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = {"x", "y"} - set(arrays.files)
            if missing:
                raise ValueError(f"{path} holds {', '.join(arrays.files)}; it needs x (inputs) and y (classes)")
            found = arrays["x"], arrays["y"], arrays["calibration"] if "calibration" in arrays.files else None
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) or "it needs x" in str(error):
            raise
        raise ValueError(
            f"{path} is not an array file that NumPy reads without pickle ({error}); save it with np.savez"
        ) from None
    x, y, calibration = found
    return np.asarray(x, np.float32), y, None if calibration is None else np.asarray(calibration, np.float32)


def _read_images(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("reading images needs Pillow; pip install 'bitwright[images]'") from None
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    files = [(f, i) for i, c in enumerate(classes) for f in sorted(c.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise ValueError(f"{folder} holds no images; it needs one folder of {', '.join(IMAGE_SUFFIXES)} files a class")
    images = []
    for file, _ in files:
        with Image.open(file) as image:
            scale = size * 256 / 224 / min(image.size)
            resized = image.convert("RGB").resize(
                [max(round(s * scale), size) for s in image.size], Image.Resampling.BILINEAR
            )
        left, top = ((s - size) // 2 for s in resized.size)
        images.append(np.asarray(resized.crop((left, top, left + size, top + size)), np.float32) / 255)
    mean, deviation = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    x = (np.stack(images) - mean) / deviation
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), np.array([label for _, label in files])


def _batches(x: np.ndarray, y: np.ndarray) -> tuple[Batch, ...]:
    inputs, targets = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.asarray(y).astype(np.int64))
    return tuple(Batch((a,), b) for a, b in zip(inputs.split(BATCH), targets.split(BATCH), strict=True))
