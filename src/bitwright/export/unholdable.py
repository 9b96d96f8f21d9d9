"""What files for other engines do not say, whatever their layout: registers that change a sum."""

from bitwright.datapath import Overflow
from bitwright.formats import FLOAT32
from bitwright.model.attention import Attention
from bitwright.model.layers import QuantizedEmbedding, QuantizedLayer


class Unholdable(ValueError):
    """The target has nothing to say this with."""


def require_exact_sums(site: QuantizedLayer | QuantizedEmbedding | Attention) -> None:
    """Unholdable where a register would change a sum, which no file says."""
    if isinstance(site, QuantizedEmbedding) or (isinstance(site, QuantizedLayer) and site.input_quantizer is None):
        return
    datapath = site.scheme.datapath
    inner, outer = datapath.inner, datapath.outer
    if datapath.scale_product not in (None, FLOAT32) or datapath.product is not None:
        raise Unholdable("products that are rounded before they are summed")
    if inner.readout is not None:
        raise Unholdable("a register that is read through a function")
    is_inner_float = inner.format is not None and inner.range is None
    if is_inner_float or (outer.range is None and outer.format not in (None, FLOAT32)):
        raise Unholdable("a float register other than float32")
    certificate = site.certificate if isinstance(site, QuantizedLayer) else None
    for register, bits in (
        (inner, None if certificate is None else certificate.inner_bits),
        (outer, None if certificate is None else certificate.outer_bits),
    ):
        may_overflow = register.overflow is not Overflow.FORBID and register.range is not None
        if may_overflow and (certificate is None or (bits is not None and bits > (register.bits or 0))):
            raise Unholdable(f"a {register.bits}-bit register that may overflow")
