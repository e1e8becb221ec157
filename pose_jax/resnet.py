"""Residual networks (He et al. 2016) with torchvision's layout, padding and names.

The stride of a bottleneck sits in its 3x3 convolution ("v1.5"). Every parameter has
one counterpart in torchvision, see `torchvision_key`.
"""

from __future__ import annotations

import functools
import re

import flax.linen as nn
from jaxtyping import Array, Float

from pose_jax.conv import Conv, make_norm, max_pool_3x3, relu

STAGE_SIZES = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# Rows of the picture per row of the last feature map.
STEM_STRIDES = {"imagenet": 32, "small": 16}


def scaled_width(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8 and at least 8."""
    return max(8, 8 * round(channels * width / 8))


class Block(nn.Module):
    """The convolutions of a block and its shortcut; arguments as in `ResNet`."""

    channels: int  # of the inner convolutions
    stride: int  # of the first 3x3 one
    wide: bool  # a bottleneck, to four times the channels; else 3x3 twice
    axis_name: str | None = None
    folded: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b i j d"]:
        norm = make_norm(train=train, axis_name=self.axis_name, folded=self.folded)
        conv = functools.partial(Conv, use_bias=self.folded)
        out = self.channels * (4 if self.wide else 1)
        if self.wide:
            layers = (self.channels, 1, 1), (self.channels, 3, self.stride), (out, 1, 1)
        else:
            layers = (out, 3, self.stride), (out, 3, 1)
        y = x
        for i, (channels, size, stride) in enumerate(layers, start=1):
            y = conv(channels, size, stride, padding=size // 2, name=f"conv{i}")(y)
            y = norm(f"bn{i}")(y)
            y = relu(y) if i < len(layers) else y
        if x.shape != y.shape:
            x = conv(out, 1, self.stride, name="downsample_0")(x)
            x = norm("downsample_1")(x)
        return relu(x + y)


class ResNet(nn.Module):
    """Stem and four stages; the last feature map, without pooling and classifier.

    Args:
        resnet_layers: 10, 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        width: factor on every number of channels, 1 in the paper.
        stem: ``"imagenet"``, 7x7 stride 2 and 3x3 max pool stride 2 (1/32 of the
            picture in the end), or ``"small"``, 3x3 stride 2 without pool (1/16), for
            pictures of 64 or 96 pixels.
        axis_name: mapped axis over which the batch statistics are averaged.
        folded: without batch norms, their biases in the convolutions (`pose_jax.fold`).
    """

    resnet_layers: int = 50
    width: float = 1.0
    stem: str = "imagenet"
    axis_name: str | None = None
    folded: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b i j d"]:
        if self.resnet_layers not in STAGE_SIZES:
            raise ValueError(
                f"resnet_layers {self.resnet_layers} is not one of {[*STAGE_SIZES]}"
            )
        if self.stem not in STEM_STRIDES:
            raise ValueError(f"stem {self.stem!r} is not one of {[*STEM_STRIDES]}")
        wide = self.resnet_layers >= 50
        norm = make_norm(train=train, axis_name=self.axis_name, folded=self.folded)
        conv = functools.partial(Conv, use_bias=self.folded)
        channels = scaled_width(64, self.width)
        size = 7 if self.stem == "imagenet" else 3
        x = conv(channels, size, stride=2, padding=size // 2, name="conv1")(x)
        x = relu(norm("bn1")(x))
        if self.stem == "imagenet":
            x = max_pool_3x3(x)
        for stage, count in enumerate(STAGE_SIZES[self.resnet_layers]):
            channels = scaled_width(64 * 2**stage, self.width)
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                how = (channels, stride, wide, self.axis_name, self.folded)
                x = Block(*how, name=name)(x, train)
        return x


def torchvision_key(path: tuple[str, ...]) -> str:
    """Name in torchvision's ``state_dict`` of one leaf of `ResNet`'s variables.

    Examples:
        >>> torchvision_key(("params", "layer1_0", "downsample_1", "scale"))
        'layer1.0.downsample.1.weight'
        >>> torchvision_key(("batch_stats", "bn1", "var"))
        'bn1.running_var'
    """
    leaf = {"mean": "running_mean", "var": "running_var", "bias": "bias"}
    modules = [re.sub(r"_(\d+)$", r".\1", name) for name in path[1:-1]]
    return ".".join([*modules, leaf.get(path[-1], "weight")])
