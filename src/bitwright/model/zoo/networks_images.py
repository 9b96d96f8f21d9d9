"""Image and keyword networks in ordinary layers: convolution, then its BatchNorm where the weights have one.

Every layer is a module attribute, so hooks see each of them. Asymmetric padding is an `nn.ZeroPad2d` of its own.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

Unit = Callable[
    ..., nn.Sequential
]  # (inputs, outputs, *, kernel, stride, groups) -> one convolution with what follows it

KERAS_EPSILON = 1e-3  # Keras and Darknet weights; PyTorch's own default is 1e-5


class Stage(NamedTuple):
    """Inverted residual blocks of one width; the stride is the first block's."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int


class InvertedResidualNetwork(nn.Module):
    """Stem, inverted residual blocks, 1×1 head, average, classifier. Sandler et al., CVPR 2018, arXiv:1801.04381."""

    def __init__(self, stages: tuple[Stage, ...], unit: Unit):
        super().__init__()
        self.stem = unit(3, 32, kernel=3, stride=2)
        self.stem_activation = nn.ReLU6()
        blocks, inputs = [], 32
        for stage in stages:
            for position in range(stage.blocks):
                first = stage if position == 0 else stage._replace(stride=1)
                blocks.append(InvertedResidual(inputs, first, unit))
                inputs = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = unit(inputs, 1280)
        self.head_activation = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem_activation(self.stem(x)))
        return self.classifier(self.flatten(self.pool(self.head_activation(self.head(x)))))


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise, project 1×1 without activation; added to its input where the shapes agree."""

    def __init__(self, inputs: int, stage: Stage, unit: Unit):
        super().__init__()
        wide = inputs * stage.expansion
        expand = {"expand": unit(inputs, wide), "expand_activation": nn.ReLU6()} if stage.expansion > 1 else {}
        self.body = chain(
            **expand,
            depthwise=unit(wide, wide, kernel=stage.kernel, stride=stage.stride, groups=wide),
            depthwise_activation=nn.ReLU6(),
            project=unit(wide, stage.channels),
        )
        self.is_residual = stage.stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.is_residual else self.body(x)


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 1.0 at 224×224, BatchNorm already folded."""
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    return InvertedResidualNetwork(tuple(Stage(*stage, kernel=3) for stage in stages), folded_unit)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 at 224×224 with TensorFlow's padding."""
    stages = (
        Stage(1, 16, 1, 1, kernel=3),
        Stage(6, 24, 2, 2, kernel=3),
        Stage(6, 40, 2, 2, kernel=5),
        Stage(6, 80, 3, 2, kernel=3),
        Stage(6, 112, 3, 1, kernel=5),
        Stage(6, 192, 4, 2, kernel=5),
        Stage(6, 320, 1, 1, kernel=3),
    )
    return InvertedResidualNetwork(stages, normalized_unit)


def tiny_darknet() -> nn.Module:
    """Tiny Darknet: 3×3 convolutions between 1×1 bottlenecks, LeakyReLU 0.1, 2×2 max-pooling after 1, 2, 6 and 10."""
    widths = (16, 32, 16, 128, 16, 128, 32, 256, 32, 256, 64, 512, 64, 512, 128)
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(zip((3, *widths), widths), start=1):
        kernel = 3 if outputs > inputs else 1
        layers += [normalized_unit(inputs, outputs, kernel=kernel), nn.LeakyReLU(0.1)]
        if number in (1, 2, 6, 10):
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class CifarResNet(nn.Module):
    """ResNet-(6n+2) for 32×32 images, shortcuts without weights. He et al., CVPR 2016, arXiv:1512.03385, sec. 4.2."""

    def __init__(self, blocks_per_stage: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        later = blocks_per_stage - 1
        self.layer1 = nn.Sequential(BasicBlock(16, 16), *(BasicBlock(16, 16) for _ in range(later)))
        self.layer2 = nn.Sequential(BasicBlock(16, 32), *(BasicBlock(32, 32) for _ in range(later)))
        self.layer3 = nn.Sequential(BasicBlock(32, 64), *(BasicBlock(64, 64) for _ in range(later)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.linear(self.flatten(self.pool(self.layer3(self.layer2(self.layer1(x))))))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; halves the image where it widens."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        widens = outputs > inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2 if widens else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = SubsampleAndPad((outputs - inputs) // 2) if widens else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class SubsampleAndPad(nn.Module):
    """Every second pixel, with zero channels added on both sides: shortcut option A of He et al."""

    def __init__(self, channels_per_side: int):
        super().__init__()
        self.channels_per_side = channels_per_side

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels_per_side, self.channels_per_side))


class TinyResNet(nn.Module):
    """ResNet-8 of MLPerf Tiny: one block per stage, 1×1 shortcuts without BatchNorm. arXiv:2106.07597, sec. 4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = normalized_unit(3, 16, kernel=3, bias=True)
        self.stem_activation = nn.ReLU()
        self.blocks = nn.Sequential(ProjectedBlock(16, 16), ProjectedBlock(16, 32), ProjectedBlock(32, 64))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem_activation(self.stem(x)))
        return self.classifier(self.flatten(self.pool(x)))


class ProjectedBlock(nn.Module):
    """Two 3×3 convolutions; where it widens it halves the image and its shortcut is a 1×1 convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        widens = outputs > inputs
        stride = 2 if widens else 1
        self.first = normalized_unit(inputs, outputs, kernel=3, stride=stride, bias=True)
        self.first_activation = nn.ReLU()
        self.second = normalized_unit(outputs, outputs, kernel=3, bias=True)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride) if widens else nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first_activation(self.first(x)))
        return self.activation(y + self.shortcut(x))


def mobilenet_v1_vww() -> nn.Module:
    """MobileNetV1 0.25 at 96×96, person or not, of MLPerf Tiny. Howard et al., arXiv:1704.04861, table 1."""
    outputs_and_strides = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1))
    blocks, inputs = [], 8
    for outputs, stride in outputs_and_strides:
        blocks.append(separable_block(inputs, outputs, stride=stride))
        inputs = outputs
    return chain(
        stem=normalized_unit(3, 8, kernel=3, stride=2, bias=True),
        stem_activation=nn.ReLU(),
        blocks=nn.Sequential(*blocks),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(256, 2),
    )


def ds_cnn_kws() -> nn.Module:
    """DS-CNN on 49×10 MFCC, 12 keywords, of MLPerf Tiny. Zhang et al., arXiv:1711.07128."""
    return chain(
        pad=nn.ZeroPad2d((1, 1, 4, 5)),  # SAME for a 10×4 kernel with stride 2 on 49×10
        stem=chain(conv=nn.Conv2d(1, 64, (10, 4), stride=2), bn=nn.BatchNorm2d(64, eps=KERAS_EPSILON)),
        stem_activation=nn.ReLU(),
        blocks=nn.Sequential(*(separable_block(64, 64) for _ in range(4))),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(64, 12),
    )


def separable_block(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """Depthwise 3×3, then 1×1, each with BatchNorm and ReLU."""
    return chain(
        depthwise=normalized_unit(inputs, inputs, kernel=3, stride=stride, groups=inputs, bias=True),
        depthwise_activation=nn.ReLU(),
        pointwise=normalized_unit(inputs, outputs, bias=True),
        pointwise_activation=nn.ReLU(),
    )


def lenet() -> nn.Module:
    """Caffe's LeNet for 28×28 digits."""
    return chain(
        conv1=nn.Conv2d(1, 20, 5),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(20, 50, 5),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        ip1=nn.Linear(800, 500),
        relu=nn.ReLU(),
        ip2=nn.Linear(500, 10),
    )


def fashion_cnn() -> nn.Module:
    """Four 3×3 convolutions with BatchNorm on 28×28 garments."""
    return chain(
        conv1=nn.Conv2d(1, 16, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(16),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        bn2=nn.BatchNorm2d(32),
        relu2=nn.ReLU(),
        conv3=nn.Conv2d(32, 64, 3, padding=1, bias=False),
        bn3=nn.BatchNorm2d(64),
        relu3=nn.ReLU(),
        conv4=nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False),
        bn4=nn.BatchNorm2d(64),
        relu4=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(64, 10),
    )


def espcn() -> nn.Module:
    """ESPCN ×2 on luma in [0, 1], ReLU inside and tanh at the end. Shi et al., CVPR 2016, arXiv:1609.05158."""
    return chain(
        conv1=nn.Conv2d(1, 64, 5, padding=2),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(64, 32, 3, padding=1),
        relu2=nn.ReLU(),
        conv3=nn.Conv2d(32, 4, 3, padding=1),
        shuffle=nn.PixelShuffle(2),
        tanh=nn.Tanh(),
    )


def folded_unit(inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution with bias and symmetric padding."""
    return chain(conv=nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups))


def normalized_unit(
    inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Sequential:
    """Convolution and BatchNorm, padded as TensorFlow's SAME pads an even size: the extra pixel is below and right."""
    before, after = same_padding(kernel, stride)
    padding = before if before == after else 0
    pad = {} if before == after else {"pad": nn.ZeroPad2d((before, after, before, after))}
    return chain(
        **pad,
        conv=nn.Conv2d(inputs, outputs, kernel, stride, padding=padding, groups=groups, bias=bias),
        bn=nn.BatchNorm2d(outputs, eps=KERAS_EPSILON),
    )


def same_padding(kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after, for a size that the stride divides."""
    total = max(kernel - stride, 0)
    return total // 2, total - total // 2


def chain(**layers: nn.Module) -> nn.Sequential:
    """Named layers, one after the other."""
    return nn.Sequential(OrderedDict(layers))
