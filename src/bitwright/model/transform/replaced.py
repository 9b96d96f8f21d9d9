"""Exchange modules of a model wherever they stand."""

from torch import nn


def replaced(model: nn.Module, replacements: dict[int, nn.Module]) -> nn.Module:
    """The model with modules, by their id, exchanged in every place that they stand in, also where they are shared."""
    for parent in list(model.modules()):
        for attribute, child in list(parent._modules.items()):
            if child is not None and id(child) in replacements:
                parent._modules[attribute] = replacements[id(child)]
    return replacements.get(id(model), model)
