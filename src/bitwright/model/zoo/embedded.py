"""Two trained models that ship in the wheel, so that a comparison runs offline.

`digits` is a residual CNN on scikit-learn's 8x8 digits. `pydoc` is a Llama-style character model (Touvron et al.,
arXiv 2302.13971: RMSNorm, rotary positions, SwiGLU) on the help topics of the running Python. `train_embedded`
trains both.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from bitwright.model.task import Batch, Perplexity, Task, Top1

DIGITS_WEIGHTS = files("bitwright.model.zoo") / "digits.safetensors"
PYDOC_WEIGHTS = files("bitwright.model.zoo") / "pydoc.safetensors"

CHARACTERS = "\n" + "".join(map(chr, range(ord(" "), ord("~") + 1)))
UNKNOWN = 0  # id of every other character; the others are numbered from 1 in the order of CHARACTERS
CONTEXT = 128

# Every tenth of the sorted topics of Python 3.11.7; by name, so that topics of a later Python do not shift the split.
TEST_TOPICS = ("assert", "bitwise", "comparisons", "else", "identifiers", "numbers", "slicings", "typesmapping")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if inputs == outputs and stride == 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )
        self.activation = nn.ReLU()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        return self.activation(self.body(x) + self.shortcut(x))


class SeparableBlock(nn.Sequential):
    """A depthwise 3x3 convolution, then a pointwise one (Howard et al., MobileNets, arXiv 1704.04861)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class DigitsNetwork(nn.Module):
    """Logits of the ten digits for 8x8 images scaled to [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(
            ResidualBlock(16, 16, stride=1),
            SeparableBlock(16, 16),
            ResidualBlock(16, 32, stride=2),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n 10"]:
        return self.head(self.pool(self.blocks(self.stem(images))).flatten(1))


class Rotary(nn.Module):
    """Rotates pairs of channels by an angle proportional to the position (Su et al., arXiv 2104.09864, sec. 3.2)."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        frequency = 10_000.0 ** -(torch.arange(0, channels, 2) / channels)
        angle = torch.outer(torch.arange(context), frequency).repeat(1, 2)
        self.register_buffer("cosine", angle.cos(), persistent=False)
        self.register_buffer("sine", angle.sin(), persistent=False)

    def forward(self, x: Float[Tensor, "n heads time c"]) -> Float[Tensor, "n heads time c"]:
        first, second = x.chunk(2, -1)
        # narrow, not a slice: torch.fx cannot slice by a traced length
        cosine, sine = (table.narrow(0, 0, x.shape[-2]) for table in (self.cosine, self.sine))
        return x * cosine + torch.cat([-second, first], -1) * sine


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.rotary = Rotary(width // heads, CONTEXT)

    def forward(self, x: Float[Tensor, "n time d"]) -> Float[Tensor, "n time d"]:
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = nn.functional.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202, eq. 6)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "n time d"]) -> Float[Tensor, "n time d"]:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Attention and MLP, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(width, eps=1e-5)
        self.self_attn = Attention(width, heads)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=1e-5)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, x: Float[Tensor, "n time d"]) -> Float[Tensor, "n time d"]:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class PydocNetwork(nn.Module):
    """Logits of the next character for each of at most CONTEXT characters; module names as in Hugging Face's Llama."""

    def __init__(self, width: int = 128, layers: int = 4, heads: int = 4, hidden: int = 256) -> None:
        super().__init__()
        vocabulary = 1 + len(CHARACTERS)
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.Sequential(*(DecoderLayer(width, heads, hidden) for _ in range(layers)))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Int64[Tensor, "samples time"]) -> Float[Tensor, "samples time vocabulary"]:
        return self.lm_head(self.norm(self.layers(self.embed_tokens(ids))))


@final
class Digits(Task):
    """Which of ten digits an 8x8 image shows: `digits`."""

    name = "digits"
    source = "bitwright.model.zoo.train_embedded digits"
    data_source = "sklearn.datasets.load_digits: UCI ML hand-written digits, 8x8, 16 grey levels"
    metric = Top1()
    float_metric = 98.99888765294772

    def load(self) -> nn.Module:
        return load_weights(DigitsNetwork(), DIGITS_WEIGHTS).eval()

    def calibration(self) -> Iterator[Batch]:
        return _batches(*(half[:256] for half in digits_training_half()), size=64)

    def test(self, limit: int | None = None) -> Iterator[Batch]:
        images, digits = load_digits()
        return _batches(images[::2][:limit], digits[::2][:limit], size=128)

    def files(self) -> dict[str, Callable[[], bytes]]:
        return {
            DIGITS_WEIGHTS.name: DIGITS_WEIGHTS.read_bytes,
            "load_digits": lambda: b"".join(part.numpy().tobytes() for part in load_digits()),
        }


@final
class Pydoc(Task):
    """The next character of Python's help topics: `pydoc`. Characters outside the vocabulary are not scored.

    The text, and so the perplexity, depends on the Python version; `metadata(PYDOC_WEIGHTS)["python"]` is that of
    `float_metric`.
    """

    name = "pydoc"
    source = "bitwright.model.zoo.train_embedded pydoc"
    data_source = "pydoc_data.topics of the running Python, PSF licence"
    metric = Perplexity()
    float_metric = 4.173902173717592

    def load(self) -> nn.Module:
        return load_weights(PydocNetwork(), PYDOC_WEIGHTS).eval()

    def calibration(self) -> Iterator[Batch]:
        windows = _windows(encode(pydoc_training_text()))
        return _text_batches(windows[:: len(windows) // 64][:64])

    def test(self, limit: int | None = None) -> Iterator[Batch]:
        return _text_batches(torch.cat([_windows(encode(text)) for text in pydoc_test_texts()])[:limit])

    def files(self) -> dict[str, Callable[[], bytes]]:
        return {
            PYDOC_WEIGHTS.name: PYDOC_WEIGHTS.read_bytes,
            "pydoc_data.topics": lambda: json.dumps(_topics(), sort_keys=True).encode(),
        }


EMBEDDED: dict[str, Task] = {task.name: task for task in (Digits(), Pydoc())}


def load_weights(model: nn.Module, path: Traversable) -> nn.Module:
    """The model with its weights overwritten from a safetensors file, converted to the model's precision."""
    try:
        model.load_state_dict(load(path.read_bytes()))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the weights are missing; {_remedy(path)}") from error
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: the weights do not load into {type(model).__name__}; {_remedy(path)}") from error
    return model


def metadata(path: Traversable) -> dict[str, str]:
    """The metadata of a safetensors file: an 8-byte length, then JSON."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header["__metadata__"]


def load_digits() -> tuple[Float[Tensor, "n 1 8 8"], Int64[Tensor, " n"]]:
    """All images, scaled to [0, 1], and their digits. Even positions are the test half."""
    table = _digits_table()
    images = torch.from_numpy(table[:, :64].astype(np.float32).reshape(-1, 1, 8, 8) / 16)
    return images, torch.from_numpy(table[:, 64].astype(np.int64))


@cache
def _digits_table() -> np.ndarray:
    """Read from scikit-learn's folder, as importing all of it takes longer than to quantize the network."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("digits: its images come with scikit-learn; pip install bitwright[compare]")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        return np.loadtxt(file, delimiter=",")


def digits_training_half() -> tuple[Float[Tensor, "n 1 8 8"], Int64[Tensor, " n"]]:
    """The odd positions of `load_digits`."""
    images, digits = load_digits()
    return images[1::2], digits[1::2]


def encode(text: str) -> Int64[Tensor, " time"]:
    """Ids of the characters; UNKNOWN outside CHARACTERS."""
    ids = {character: index for index, character in enumerate(CHARACTERS, start=1)}
    return torch.tensor([ids.get(character, UNKNOWN) for character in text])


def pydoc_training_text() -> str:
    """The topics outside TEST_TOPICS, less the paragraphs that a test topic repeats."""
    tested = {_words(paragraph) for text in pydoc_test_texts() for paragraph in text.split("\n\n")}
    paragraphs = (
        paragraph
        for name, text in sorted(_topics().items())
        if name not in TEST_TOPICS
        for paragraph in text.split("\n\n")
    )
    return "\n\n".join(paragraph for paragraph in paragraphs if _words(paragraph) not in tested)


def pydoc_test_texts() -> list[str]:
    """Those of TEST_TOPICS that the running Python has."""
    return [_topics()[name] for name in TEST_TOPICS if name in _topics()]


def next_character_targets(windows: Int64[Tensor, "samples time_plus_1"]) -> Int64[Tensor, "samples time"]:
    """The id after each but the last; -1, not scored, for UNKNOWN."""
    return windows[:, 1:].where(windows[:, 1:] != UNKNOWN, -1)


def _words(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _topics() -> dict[str, str]:
    from pydoc_data.topics import topics  # 0.7 MB, read when first asked for

    return topics


def _windows(ids: Int64[Tensor, " time"]) -> Int64[Tensor, "samples time_plus_1"]:
    """Consecutive windows of CONTEXT inputs and the character after them; the rest at the end is dropped."""
    return ids.unfold(0, CONTEXT + 1, CONTEXT)


def _text_batches(windows: Int64[Tensor, "samples time_plus_1"]) -> Iterator[Batch]:
    return _batches(windows[:, :-1], next_character_targets(windows), size=32)


def _batches(inputs: Tensor, targets: Tensor, *, size: int) -> Iterator[Batch]:
    return (Batch((x,), y) for x, y in zip(inputs.split(size), targets.split(size), strict=True))


def _remedy(path: Traversable) -> str:
    return f"reinstall bitwright, or run python -m bitwright.model.zoo.train_embedded {path.name.split('.')[0]}"
