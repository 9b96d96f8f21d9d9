"""Products of the networks that Term Revealing's paper runs: one image, or 350 words of the language model.

Shapes are those of torchvision's VGG-16, ResNet-18 and MobileNet-v2, of EfficientNet-b0, of the artifact's perceptron
(784-512-512-10) and of the decoder of its word language model.
"""

from ant_hardware_networks import LAYERS, shapes_of

from bitwright.gemm import Gemm, LayerGemm

MOBILENET = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, repeats, first stride."""
EFFICIENTNET = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
                (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
"""The same, and the kernel."""


def plain(network: str) -> list[LayerGemm]:
    """A network of ordinary convolutions, without its linear layers."""
    shapes = shapes_of(LAYERS[network])
    return [
        LayerGemm(f"{i}", Gemm(s.output**2, s.kernel**2 * s.inputs, s.outputs))
        for i, s in enumerate(shapes)
        if s.output > 1
    ]


def inverted(stages: tuple[tuple[int, ...], ...], *, has_squeeze: bool) -> list[LayerGemm]:
    """Inverted residuals between a first convolution and 1280 channels: pointwise, depthwise and squeezing layers."""
    made, size, channels = [LayerGemm("first", Gemm(112**2, 27, 32))], 112, 32
    for i, (expand, outputs, repeats, stride, *rest) in enumerate(stages):
        kernel = rest[0] if rest else 3
        for j in range(repeats):
            wide, step = channels * expand, stride if j == 0 else 1
            name = f"{i}.{j}"
            if expand > 1:
                made.append(LayerGemm(f"{name} pointwise", Gemm(size**2, channels, wide)))
            size //= step
            made.append(LayerGemm(f"{name} depthwise", Gemm(size**2, kernel**2, 1, wide)))
            if has_squeeze:
                squeezed = max(channels // 4, 1)
                made.append(LayerGemm(f"{name} squeeze", Gemm(1, wide, squeezed)))
                made.append(LayerGemm(f"{name} excite", Gemm(1, squeezed, wide)))
            made.append(LayerGemm(f"{name} pointwise", Gemm(size**2, wide, outputs)))
            channels = outputs
    return [*made, LayerGemm("last pointwise", Gemm(size**2, channels, 1280))]


NETWORKS = {
    "MLP": [LayerGemm(str(i), Gemm(1, k, n)) for i, (k, n) in enumerate(((784, 512), (512, 512), (512, 10)))],
    "VGG-16": plain("VGG16"), "ResNet-18": plain("ResNet18"), "MobileNet-v2": inverted(MOBILENET, has_squeeze=False),
    "EfficientNet-b0": inverted(EFFICIENTNET, has_squeeze=True), "LSTM": [LayerGemm("decoder", Gemm(350, 650, 33278))],
}  # fmt: skip


def macs(network: str, word: str = "") -> int:
    """Of layers with this word in their name, without the first of a convolutional network."""
    layers = NETWORKS[network] if network in ("MLP", "LSTM") else NETWORKS[network][1:]
    return sum(layer.macs for layer in layers if word in layer.name)
