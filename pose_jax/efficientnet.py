"""EfficientNet-Lite0 (Tan and Le 2019; the Lite form by Google): learned from ImageNet.

It brings features of photographs along, and is small enough for a CPU. What that gives
is in configs/README.md, table 2. Its batch norms are folded into the convolutions when
the weights are read (`pose_jax.pretrained`): a student sees too few pictures a step to
renew their statistics.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from pose_jax.conv import Conv, Depthwise, make_norm, pad_same
from pose_jax.pyramid import summed

STEM, SUM_CHANNELS = 32, 64
LAYERS = ("expand", "depthwise", "project")  # of a block


class Stage(NamedTuple):
    """Blocks that follow each other with the same channels."""

    size: int  # of the depthwise window
    stride: int  # of the first block
    expand: int  # channels within a block over those before it
    channels: int
    count: int


# All but the last one, which is for the classification.
STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
)


class InvertedBlock(nn.Module):
    """To many channels, a window on each, back to few; added to what came in."""

    stage: Stage
    first: bool  # of its stage

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        size, stride, expand, channels, _ = self.stage
        stride, y = stride if self.first else 1, x
        if expand > 1:
            y = Conv(expand * x.shape[-1], 1, use_bias=True, name="expand")(y)
            y = nn.relu6(y)
        y = nn.relu6(Depthwise(size, stride, name="depthwise")(y))
        y = Conv(channels, 1, use_bias=True, name="project")(y)
        return y if self.first else x + y


class EfficientNet(nn.Module):
    """The sum of its features at a quarter of the picture's size, as in `Pyramid`.

    Args:
        axis_name: mapped axis over which the statistics of the sum are averaged.
        folded: without batch norms (`pose_jax.fold`); only those of the sum are left.
    """

    axis_name: str | None = None
    folded: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> tuple[Float[Array, "b i j d"], Float[Array, "b k l e"]]:
        """The sum, and the features of the last stage."""
        x = Conv(STEM, 3, 2, use_bias=True, name="stem")(pad_same(x, 3, 2))
        x, before, number = nn.relu6(x), [], 0
        for stage in STAGES:
            if stage.stride > 1:
                before.append(x)
            for i in range(stage.count):
                x = InvertedBlock(stage, i == 0, name=f"block{number}")(x)
                number += 1
        norm = make_norm(train=train, axis_name=self.axis_name, folded=self.folded)
        conv = functools.partial(Conv, use_bias=self.folded)
        return summed([*before[1:], x], SUM_CHANNELS, norm, conv), x


def brought_along(path: tuple[str, ...]) -> bool:
    """Whether a parameter comes from a file of weights, by its place in a student.

    Examples:
        >>> brought_along(("backbone", "block3", "expand", "kernel"))
        True
        >>> brought_along(("backbone", "lateral1", "kernel"))
        False
    """
    return re.match(r"backbone/(stem|block\d+)/", "/".join(path)) is not None


def names_in_file(*, timm: bool) -> dict[tuple[str, ...], tuple[str, str]]:
    """The convolution and its batch norm of each layer of `EfficientNet`.

    In timm's ``tf_efficientnet_lite0``, or else in efficientnet_pytorch and what was
    made with it.

    Examples:
        >>> names_in_file(timm=True)["block1", "project"]
        ('blocks.1.0.conv_pwl', 'blocks.1.0.bn3')
        >>> names_in_file(timm=False)["block1", "project"]
        ('_blocks.1._project_conv', '_blocks.1._bn2')
    """
    stem = ("conv_stem", "bn1") if timm else ("_conv_stem", "_bn0")
    names: dict[tuple[str, ...], tuple[str, str]] = {("stem",): stem}
    places = [(s, i) for s, stage in enumerate(STAGES) for i in range(stage.count)]
    for number, (s, i) in enumerate(places):
        first = 0 if STAGES[s].expand > 1 else 1  # of the layers that it has
        convs = ("conv_pw", "conv_dw", "conv_pw" if first else "conv_pwl")
        for j in range(first, len(LAYERS)):
            place, conv, norm = f"blocks.{s}.{i}.", convs[j], f"bn{j - first + 1}"
            if not timm:
                place, conv, norm = f"_blocks.{number}._", f"{LAYERS[j]}_conv", f"bn{j}"
            names[f"block{number}", LAYERS[j]] = place + conv, place + norm
    return names
