"""Linear layers that store their weight transposed, as ordinary ones: `Conv1D` of transformers, in GPT-2 and its kin.

Its weight is [inputs, outputs] and it multiplies by addmm, so nothing about it is a convolution. The network computes
the same function.
"""

import copy
import sys

import torch
from torch import nn

from bitwright.model.transform.replaced import replaced


def untranspose_linear(model: nn.Module) -> nn.Module:
    """A copy with nn.Linear for each Conv1D of transformers; subclasses only if they keep its forward.

    The weights are copies: one that another module shares is shared no more.
    """
    model = copy.deepcopy(model)
    known = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    if known is None:  # no module can be of a class that nobody imported
        return model
    replacements: dict[int, nn.Module] = {
        id(module): _linear(module)
        for module in model.modules()
        if isinstance(module, known)
        and type(module).forward is known.forward
        and {"weight", "bias"} <= module._parameters.keys()
    }
    return replaced(model, replacements)


def _linear(module: nn.Module) -> nn.Linear:
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    linear = nn.Linear(weight.shape[0], weight.shape[1], device="meta")
    linear.weight = nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)
    linear.bias = module.bias  # type: ignore[assignment]
    return linear.train(module.training)
