"""Registers that wrap, in float and with a gradient: what a readout makes of each sum, so that simulated equals exact.

R. Ni et al., ICLR 2021, arXiv:2007.13242. The gradient through the wrapping is straight, and is our choice.
"""

import torch
from torch import Tensor, nn

from bitwright import kernels
from bitwright.datapath import Accumulator
from bitwright.kernels.registers import read
from bitwright.model.surrogate import Ranges
from bitwright.quantization import Quantizer


class Readout(nn.Module):
    """Float sums as they are read from a wrapping register: a module of its own, so that a hook sees every sum.

    Backwards each sum has slope 1 or -slope, as the branch of its integer says. The float sums are rounded to integers
    first; below 2**20 units their float32 error is far from a half.
    """

    def forward(self, y: Tensor, unit: Tensor, register: Accumulator) -> Tensor:
        """`unit` is what one integer of the register stands for; it broadcasts against y."""
        assert register.readout is not None, "a register that is read through a function"
        z = y.float() / unit
        with torch.no_grad():
            half, slope = register.half, register.readout.slope
            held = z.round()
            held -= torch.floor((held + half) / (2 * half)) * (2 * half)  # exact however wide the register is
            is_folded = held.abs() > slope * (half - held.abs())
            value = read(register, held)
            gradient = torch.where(is_folded, -float(slope), 1.0)
        return ((value + gradient * (z - z.detach())) * unit).to(y.dtype)


def overflow(y: Tensor, unit: Tensor, register: Accumulator) -> Tensor:
    """How far each sum lies beyond half the register's integers, in units: max(|z| - 2**(bits - 1), 0)."""
    return ((y.float() / unit).abs() - register.half).clamp(min=0)


def static_scale(quantizer: Quantizer | None, ranges: Ranges, step: Tensor | None, rows: int) -> Tensor:
    """What one integer stands for in each of so many rows [rows or 1], with a gradient where it is learned.

    Scales that vary along K, or follow the data, raise ValueError.
    """
    known = [r.magnitude.shape for r in ranges if r is not None]
    if quantizer is None or len(known) < len(quantizer.scales) or not set(known) <= {(1, 1), (rows, 1)}:
        raise ValueError(
            "a register that is read through a function is simulated for one static scale a tensor of inputs and a row "
            "of weights; give every scale a range estimator and PerTensor() or PerRow()"
        )
    if step is not None:
        scale = step.flatten()
    else:
        scale = kernels.quantize(quantizer, torch.zeros(rows, 1), ranges).outside.flatten().float()
    return scale * 2.0 ** quantizer.format.bounds().exponent.start
