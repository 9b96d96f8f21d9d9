"""Every scheme that is compared by default, and the quantizers that it may choose."""

from bitwright.comparison import DEFAULT_SCHEMES
from bitwright.config import from_text
from bitwright.quantization import BestOf, BySign
from bitwright.scheme import Scheme

SCHEMES = [text for text in DEFAULT_SCHEMES if isinstance(from_text(text), Scheme)]


def quantizers(scheme):
    return [q for side in (scheme.input, scheme.weight) for q in choices(side)]


def choices(quantizer):
    if isinstance(quantizer, BySign):
        return [*choices(quantizer.unsigned), *choices(quantizer.signed)]
    if isinstance(quantizer, BestOf):
        return list(quantizer.quantizers)
    return [] if quantizer is None else [quantizer]
