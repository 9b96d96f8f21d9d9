"""What a source gives: a float model, and what its source knows of its inputs and outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from jaxtyping import Float
from torch import nn

Prepare = Callable[[Any], Float[np.ndarray, "c h w"]]
"""An RGB image of Pillow's to the network's input."""


@final
@dataclass(frozen=True)
class Network:
    """A model in eval mode. A field that its source says nothing of keeps its default."""

    model: nn.Module
    name: str
    source: str
    prepare: Prepare | None = None
    tokenizer: Any = None
    """As transformers' tokenizers: called with one text or two, gives `input_ids` and what else the model takes."""
    is_causal: bool = False
    """Its outputs are logits of the next token."""
    longest: int | None = None
    """Tokens that it takes at once."""
    outputs: int | None = None
    """Of a classifier: how many classes there are; 1 where it gives a score."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Names of its classes."""
    batch_size: int | None = None
    """Samples in a forward call, where no other number works."""
