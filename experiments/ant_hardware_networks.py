"""The networks that ANT's simulator counts, and the layers that each design runs at 8 bits.

From the layer lists of clevercool/ANT-Quantization@bc84067, ant_simulator/bitfusion/src/benchmarks; shapes are those of
the public networks. "3>64:7x7@112" is a convolution of 3 to 64 channels with a kernel of 7x7 and 112x112 outputs,
"768>3072*128" a matrix product of 128 rows a sample, "2*(...)" repeats. Batches are of 64 samples.
"""

import re

from bitwright.cost.ant_simulator import FIXED_6, Design, Shape, WeightStationary

BATCH = 64

RESNET18_REST = " ".join(
    f"{c // 2}>{c}:3x3@{o} {c}>{c}:3x3@{o} {c // 2}>{c}:1x1@{o} 2*({c}>{c}:3x3@{o})"
    for c, o in ((128, 28), (256, 14), (512, 7))
)

LAYERS = {
    "VGG16": (
        "3>64:3x3@224 64>64:3x3@224 64>128:3x3@112 128>128:3x3@112 128>256:3x3@56 2*(256>256:3x3@56) "
        "256>512:3x3@28 2*(512>512:3x3@28) 3*(512>512:3x3@14) 25088>4096*1 4096>4096*1 4096>1000*1"
    ),
    "ResNet18": f"3>64:7x7@112 4*(64>64:3x3@56) {RESNET18_REST} 512>1000*1",
    "ResNet50": (
        "3>64:7x7@112 64>64:1x1@56 64>64:3x3@56 2*(64>256:1x1@56) 2*(256>64:1x1@56 64>64:3x3@56 64>256:1x1@56) "
        "256>128:1x1@56 128>128:3x3@28 128>512:1x1@28 256>512:1x1@28 "
        "3*(512>128:1x1@28 128>128:3x3@28 128>512:1x1@28) 512>256:1x1@28 256>256:3x3@14 256>1024:1x1@14 "
        "512>1024:1x1@14 5*(1024>256:1x1@14 256>256:3x3@14 256>1024:1x1@14) 1024>512:1x1@14 512>512:3x3@7 "
        "512>2048:1x1@7 1024>2048:1x1@7 2*(2048>512:1x1@7 512>512:3x3@7 512>2048:1x1@7) 2048>1000*1"
    ),
    "InceptionV3": (
        "3>32:3x3@149 32>32:3x3@147 32>64:3x3@147 64>80:1x1@73 80>192:3x3@71 192>64:1x1@35 192>48:1x1@35 "
        "48>64:5x5@35 192>64:1x1@35 64>96:3x3@35 96>96:3x3@35 192>32:1x1@35 256>64:1x1@35 256>48:1x1@35 "
        "48>64:5x5@35 256>64:1x1@35 64>96:3x3@35 96>96:3x3@35 256>64:1x1@35 288>64:1x1@35 288>48:1x1@35 "
        "48>64:5x5@35 288>64:1x1@35 64>96:3x3@35 96>96:3x3@35 288>64:1x1@35 288>384:3x3@17 288>64:1x1@35 "
        "64>96:3x3@35 96>96:3x3@17 768>192:1x1@17 768>128:1x1@17 128>128:1x7@17 128>192:7x1@17 768>128:1x1@17 "
        "128>128:7x1@17 128>128:1x7@17 128>128:7x1@17 128>192:1x7@17 2*(768>192:1x1@17 768>192:1x1@17 768>160:1x1@17 "
        "160>160:1x7@17 160>192:7x1@17 768>160:1x1@17 160>160:7x1@17 160>160:1x7@17 160>160:7x1@17 160>192:1x7@17) "
        "3*(768>192:1x1@17) 192>192:1x7@17 192>192:7x1@17 768>192:1x1@17 2*(192>192:7x1@17 192>192:1x7@17) "
        "2*(768>192:1x1@17) 192>320:3x3@8 768>192:1x1@17 192>192:1x7@17 192>192:7x1@17 192>192:3x3@8 1280>320:1x1@8 "
        "1280>384:1x1@8 384>384:1x3@8 384>384:3x1@8 1280>448:1x1@8 448>384:3x3@8 384>384:1x3@8 384>384:3x1@8 "
        "1280>192:1x1@8 2048>320:1x1@8 2048>384:1x1@8 384>384:1x3@8 384>384:3x1@8 2048>448:1x1@8 448>384:3x3@8 "
        "384>384:1x3@8 384>384:3x1@8 2048>192:1x1@8 2048>1000*1"
    ),
    "ViT": "12*(768>2304*197 768>768*197 768>3072*197 3072>768*197) 768>1000*1",
} | dict.fromkeys(
    ("BERT-MNLI", "BERT-CoLA", "BERT-SST-2"),
    "12*(4*(768>768*128) 768>3072*128 3072>768*128) 768>768*1 768>2*1",
)

PATCHES = "3>768:16x16@14"
"""BitFusion's list of ViT begins with the patch embedding, which the others leave out."""

CONVOLUTIONAL = ("VGG16", "ResNet18", "ResNet50", "InceptionV3")

ANT_8_BIT = {
    "VGG16": {0, 15}, "ResNet18": {0, 20}, "ResNet50": {0, 53}, "InceptionV3": {0, 1, 2, 3, 94},
    "ViT": {1, 2, 3, 6, 10, 22, 24, 30, 43, 48}, "BERT-MNLI": {48, 49, 50, 59, 72, 73},
    "BERT-CoLA": {37, 42, 43, 44, 48, 49, 50, 59, 72, 73}, "BERT-SST-2": set(),
}  # fmt: skip

BITFUSION_4_BIT = {
    "VGG16": {10, 12, 14}, "ResNet18": {16, 19},
    "ResNet50": {16, 17, 20, 22, 23, 26, 29, 30, 32, 33, 35, 36, 38, 39, 41, 44, 45, 48, 49, 51, 52},
    "InceptionV3": {29, 32, 33, 38, 42, 45, 46, 52, 53, *range(55, 59), 61, 62, *range(64, 73), 75, 78, 79,
                    *range(81, 84), *range(85, 95)},
    "ViT": {2, 22, 30, 34, 38, 42}, "BERT-CoLA": set(),
    "BERT-MNLI": {3, 9, 15, 21, 27, 29, 33, 35, 39, 41, 45, 47, 51, 63, 69, 71, 73},
    "BERT-SST-2": {3, 5, 9, 11, 15, 21, 23, 27, 29, 33, 35, 39, 41, 45, 47, 51, 53, 57, 63, 65, 69, 71, 72, 73},
}  # fmt: skip

DESIGNS = {
    "ANT-OS": Design(32, 32), "ANT-WS": Design(32, 32, flow=WeightStationary()), "BitFusion": Design(32, 32),
    "OLAccel": Design(16, 18), "BiScaled": Design(32, 80, FIXED_6), "AdaFloat": Design(32, 28),
}  # fmt: skip
"""Of equal area: 28 nm, 500 MHz, 512 KB of buffers."""


def layers(design: str, network: str) -> list[tuple[Shape, int]]:
    """Shapes and operand bits as the design runs them."""
    text = LAYERS[network]
    shapes = shapes_of(f"{PATCHES} {text}" if (design, network) == ("BitFusion", "ViT") else text)
    last = len(shapes) - 1
    match design:
        case "ANT-OS" | "ANT-WS":
            bits = [8 if i in ANT_8_BIT[network] else 4 for i in range(len(shapes))]
        case "BitFusion":
            bits = [4 if i in BITFUSION_4_BIT[network] else 8 for i in range(len(shapes))]
        case "OLAccel":
            bits = [8 if network in CONVOLUTIONAL and i in (0, last) else 4 for i in range(len(shapes))]
        case _:
            bits = [6 if design == "BiScaled" else 8] * len(shapes)
    return list(zip(shapes, bits, strict=True))


def shapes_of(text: str) -> list[Shape]:
    """The layers that a list in this module's notation stands for."""
    repeated = re.compile(r"(\d+)\*\(([^()]*)\)")
    while repeated.search(text):  # from the inside outwards
        text = repeated.sub(lambda found: " ".join([found[2]] * int(found[1])), text)
    return [_shape(word) for word in text.split()]


def _shape(word: str) -> Shape:
    found = re.fullmatch(r"(\d+)>(\d+)(?::(\d+)x\d+@(\d+)|\*(\d+))", word)
    assert found, f"no layer: {word}"
    inputs, outputs, kernel, output, rows = (int(part or 1) for part in found.groups())
    return Shape(kernel, output, inputs, outputs, BATCH * rows)
