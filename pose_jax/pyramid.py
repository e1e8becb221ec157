"""A small backbone for small pictures: three stages and the sum of their features."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from pose_jax.conv import Conv, make_norm, relu
from pose_jax.resnet import Block, scaled_width

CELL = 4  # pixels per cell of the first stage
CHANNELS, SUM_CHANNELS = (128, 256, 512), 256  # at width 1, those of a ResNet


class Pyramid(nn.Module):
    """A quarter of the picture's size, with features of three; ours, not the paper's.

    The picture enters in blocks of 4x4 pixels, since on a CPU convolutions of few
    channels at a finer size cost most and add least. A block of each stage, the second
    and the third at half the size; 1x1 convolutions bring all three to one size, where
    they are added.

    Args:
        width: factor on all channels.
        axis_name: mapped axis over which the batch statistics are averaged.
        folded: without batch norms, their biases in the convolutions (`pose_jax.fold`).
    """

    width: float = 1.0
    axis_name: str | None = None
    folded: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> tuple[Float[Array, "b i j d"], Float[Array, "b k l e"]]:
        """The sum, and the features of the last stage."""
        norm = make_norm(train=train, axis_name=self.axis_name, folded=self.folded)
        conv = functools.partial(Conv, use_bias=self.folded)
        channels = [scaled_width(count, self.width) for count in CHANNELS]
        x = conv(channels[0], 3, padding=1, name="conv1")(_blocks(x))
        x, stages = relu(norm("bn1")(x)), []
        for i, count in enumerate(channels, start=1):
            how = (count, 2 if i > 1 else 1, False, self.axis_name, self.folded)
            x = Block(*how, name=f"layer{i}_0")(x, train)
            stages.append(x)
        count = scaled_width(SUM_CHANNELS, self.width)
        return summed(stages, count, norm, conv), x


def summed(
    stages: Sequence[Array], count: int, norm: Callable[[str], Any], conv: Any
) -> Float[Array, "b i j d"]:
    """Features of all stages, each half the size of the one before, added at the first.

    1x1 convolutions, ``conv``, bring them to ``count`` channels; each has its ``norm``.
    """
    laterals = [
        norm(f"bn_lateral{i}")(conv(count, 1, name=f"lateral{i}")(stage))
        for i, stage in enumerate(stages, start=1)
    ]
    while len(laterals) > 1:
        coarse = laterals.pop()
        laterals[-1] += _doubled(coarse)
    return relu(laterals[0])


def _blocks(x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
    """Each square of CELL x CELL pixels as the channels of one cell."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // CELL, CELL, w // CELL, CELL, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // CELL, w // CELL, -1)


def _doubled(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """Every cell twice in each direction."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)
