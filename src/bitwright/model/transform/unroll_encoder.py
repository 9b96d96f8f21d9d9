"""Unroll nn.TransformerEncoderLayer, whose fused path reads the weights of its layers and leaves no call to see.

Unrolled it computes as torch does while it trains: attention, then two linear layers. The network computes the same
function, except that nn.TransformerEncoder packs samples for the fused path and then fills places that
`src_key_padding_mask` hides with zeros; here, as while it trains, they hold numbers that no other place reads.
"""

import copy
from collections.abc import Callable

from torch import Tensor, nn

from bitwright.model.inspect import unsupported_reason
from bitwright.model.transform.replaced import replaced


def unroll_encoder(model: nn.Module) -> nn.Module:
    """A copy with `UnrolledEncoderLayer` for nn.TransformerEncoderLayer. What `inspect` calls unsupported stays."""
    model = copy.deepcopy(model)
    replacements: dict[int, nn.Module] = {
        id(module): UnrolledEncoderLayer(module)
        for module in model.modules()
        if isinstance(module, nn.TransformerEncoderLayer) and unsupported_reason(module) is None
    }
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(id(layer) in replacements for layer in module.layers):
            module.use_nested_tensor = False
    return replaced(model, replacements)


class UnrolledEncoderLayer(nn.Module):
    """The children of an nn.TransformerEncoderLayer, called as the module that they come from."""

    self_attn: nn.Module
    linear1: nn.Module
    linear2: nn.Module
    norm1: nn.Module
    norm2: nn.Module
    dropout: nn.Module
    dropout1: nn.Module
    dropout2: nn.Module
    activation: Callable[[Tensor], Tensor]
    norm_first: bool

    def __init__(self, module: nn.TransformerEncoderLayer) -> None:
        super().__init__()
        for field, value in vars(module).items():
            if not field.startswith("_"):
                setattr(self, field, value)
        for name, child in module.named_children():
            self.add_module(name, child)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            masks = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask, "is_causal": is_causal}
            mixed: Tensor = self.dropout1(self.self_attn(x, x, x, need_weights=False, **masks)[0])
            return mixed

        def feed(x: Tensor) -> Tensor:
            fed: Tensor = self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))
            return fed

        if self.norm_first:
            x = src + attend(self.norm1(src))
            return x + feed(self.norm2(x))
        x = self.norm1(src + attend(src))
        y: Tensor = self.norm2(x + feed(x))
        return y
