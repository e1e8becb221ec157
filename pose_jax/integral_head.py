"""Integral regression (Sun et al. 2018): a heat map for each joint, and its mean.

`IntegralHead` is the paper's, whose heat fills a volume; in `LocationHead`, which is
ours and cheaper, it lies in the picture alone.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pose_jax.conv import Conv, UpsampleConv, make_norm, relu
from pose_jax.error_bar import ErrorBar

_small = nn.initializers.normal(0.001)


class Prediction(NamedTuple):
    """What a network says of B pictures; of one, without the leading axis.

    Patch units: [-1, 1] across the crop, x right, y down, z away from the camera.
    """

    xy: Float[Array, "*b p 2"]
    depths: Float[Array, "*b m p"]  # one for each mode that shares the network
    spread: Float[Array, "*b m p 3"]  # standard deviation of the error, see ErrorBar
    log_heat: Float[Array, "*b h w p"]  # over the cells of the picture
    yaw: Float[Array, "*b k"] | None = None  # logits

    @property
    def pose(self) -> Float[Array, "*b p 3"]:
        """x, y and the first depth."""
        return jnp.concatenate([self.xy, self.depths[..., 0, :, None]], axis=-1)


def voxel_centres(count: int) -> Float[Array, " n"]:
    """Centres of `count` equal cells of [-1, 1]: ``(i + 0.5) / count * 2 - 1``.

    Examples:
        >>> voxel_centres(4).tolist()
        [-0.75, -0.25, 0.25, 0.75]
    """
    return (jnp.arange(count, dtype=jnp.float32) + 0.5) * (2.0 / count) - 1.0


def soft_argmax(
    logits: Float[Array, "h w j d"],
) -> tuple[Float[Array, "j 3"], Float[Array, "j 3"]]:
    """Mean and standard deviation of a softmax over the volume of each joint.

    The mean of x needs only the marginal over x, and so on: three sums of the
    exponentials take the place of a volume of coordinates.

    Args:
        logits: unnormalised log-heat of one picture, row (y), column (x), joint,
            depth (z away from the camera). Computed in float32 whatever its dtype.

    Returns:
        (mean, spread), both x, y, z in units of [-1, 1] across the volume.
    """
    h, w, _, d = logits.shape
    logits = logits.astype(jnp.float32)
    peak = jax.lax.stop_gradient(logits.max((0, 1, 3), keepdims=True))
    heat = jnp.exp(logits - peak)
    plane = heat.sum(3)
    marginals = (plane.sum(0).T, plane.sum(1).T, heat.sum((0, 1)))
    total = plane.sum((0, 1)).reshape(-1, 1)
    means, spreads = [], []
    for heat_1d, count in zip(marginals, (w, h, d), strict=True):
        centres = voxel_centres(count).reshape(1, -1)
        heat_1d = heat_1d / total
        mean = (heat_1d * centres).sum(1, keepdims=True)
        # At least the variance of a point anywhere in one voxel: its root has a
        # gradient also where all the heat is in one voxel.
        within = (2.0 / count) ** 2 / 12.0
        variance = (heat_1d * (centres - mean) ** 2).sum(1, keepdims=True) + within
        means.append(mean)
        spreads.append(jnp.sqrt(variance))
    return jnp.concatenate(means, 1), jnp.concatenate(spreads, 1)


class IntegralHead(nn.Module):
    """Transposed convolutions, 1x1 convolution to ``J * D`` channels, `soft_argmax`.

    ``axis_name`` and ``folded`` as in `ResNet`.
    """

    num_joints: int  # J
    depth_bins: int = 64  # D, cells along z
    num_deconv: int = 3  # how often the feature map is doubled
    channels: int = 256  # of each transposed convolution
    axis_name: str | None = None
    folded: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Prediction:
        norm = make_norm(train=train, axis_name=self.axis_name, folded=self.folded)
        for i in range(1, self.num_deconv + 1):
            x = UpsampleConv(self.channels, self.folded, name=f"deconv{i}")(x)
            x = relu(norm(f"bn{i}")(x))
        cells = self.num_joints * self.depth_bins
        x = Conv(cells, 1, use_bias=True, kernel_init=_small, name="final")(x)
        logits = x.reshape(*x.shape[:3], self.num_joints, self.depth_bins)
        mean, width = jax.vmap(soft_argmax)(logits)
        plane = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
        log_heat = plane - jax.nn.logsumexp(plane, axis=(1, 2), keepdims=True)
        spread = ErrorBar(name="error_bar")(width[:, None])
        return Prediction(mean[..., :2], mean[..., None, :, 2], spread, log_heat)


class LocationHead(nn.Module):
    """Heat and depth of each joint in every cell; depth is its mean under the heat.

        z_j = sum_c heat_j(c) depth_j(c)

    The last layer depends on where the body faces, because which side a limb belongs
    to is a product of that and of where the limb is. Its kernel is

        W + sum_k (p_k - 1/K) W_k,   p the probabilities of K yaws.

    Args:
        num_joints: P.
        num_depths: depths of each joint, one for every mode.
        yaw_classes: K; 0: the kernel is W.
    """

    num_joints: int
    num_depths: int
    yaw_classes: int

    @nn.compact
    def __call__(
        self,
        features: tuple[Float[Array, "b h w c"], Float[Array, "b i j d"]],
        train: bool,
    ) -> Prediction:
        """From the features of the cells, and coarser ones that tell the yaw."""
        x, coarse = features
        b, h, w, c = x.shape
        count, flat = (1 + self.num_depths) * self.num_joints, x.reshape(b, h * w, c)
        found = Conv(count, 1, use_bias=True, kernel_init=_small, name="final")(x)
        found, yaw = found.astype(jnp.float32).reshape(b, h * w, count), None
        if self.yaw_classes:
            # So many features would change the logits too fast at their full size.
            seen = 0.1 * coarse.astype(jnp.float32).reshape(b, -1)
            init = nn.initializers.normal(0.01)
            yaw = nn.Dense(self.yaw_classes, kernel_init=init, name="yaw")(seen)
            share = jax.nn.softmax(yaw) - 1.0 / self.yaw_classes
            bank = nn.Dense(
                c * count, use_bias=False, kernel_init=_small, name="facing"
            )
            kernel = bank(share).reshape(b, c, count).astype(x.dtype)
            found += (flat @ kernel).astype(jnp.float32)
        found = found.reshape(b, h * w, 1 + self.num_depths, self.num_joints)
        log_heat = jax.nn.log_softmax(found[:, :, 0], axis=1)
        heat, depth = jnp.exp(log_heat)[:, :, None], found[:, :, 1:]
        depths = (heat * depth).sum(1)
        log_heat = log_heat.reshape(b, h, w, self.num_joints)
        mean, width = jax.vmap(soft_argmax)(log_heat[..., None])
        off = (heat * jnp.square(depth - depths[:, None])).sum(1)
        # Never 0, whose logarithm the error bar could not take.
        along = jnp.sqrt(off + 1e-8)[..., None]
        across = jnp.broadcast_to(width[:, None, :, :2], (*depths.shape, 2))
        spread = ErrorBar(name="error_bar")(jnp.concatenate([across, along], -1))
        return Prediction(mean[..., :2], depths, spread, log_heat, yaw)
