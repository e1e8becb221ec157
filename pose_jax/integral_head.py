"""Integral regression (Sun et al. 2018): a heat map for each joint, and its mean."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pose_jax.conv import Conv, UpsampleConv, make_norm


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
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> tuple[Float[Array, "b j 3"], Float[Array, "b j 3"]]:
        norm = make_norm(train=train, axis_name=self.axis_name, folded=self.folded)
        for i in range(1, self.num_deconv + 1):
            x = UpsampleConv(self.channels, self.folded, name=f"deconv{i}")(x)
            x = nn.relu(norm(f"bn{i}")(x))
        x = Conv(
            self.num_joints * self.depth_bins,
            1,
            use_bias=True,
            kernel_init=nn.initializers.normal(0.001),
            name="final",
        )(x)
        logits = x.reshape(*x.shape[:3], self.num_joints, self.depth_bins)
        return jax.vmap(soft_argmax)(logits)
