"""The student f (Section 4.4): from a picture to the 3D pose in patch units."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from pose_jax.efficientnet import EfficientNet
from pose_jax.integral_head import IntegralHead, LocationHead, Prediction
from pose_jax.pyramid import Pyramid
from pose_jax.resnet import STEM_STRIDES, ResNet

# Pixels per cell of the last stage of those with a `LocationHead`.
COARSEST = {"pyramid": 16, "efficientnet": 32}
NETWORKS = ("resnet", *COARSEST)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Bytes to ``(value / 255 - mean) / std`` of ImageNet's colours."""
    mean = jnp.asarray(IMAGENET_MEAN, jnp.float32).reshape(1, 1, 1, 3)
    std = jnp.asarray(IMAGENET_STD, jnp.float32).reshape(1, 1, 1, 3)
    return (images.astype(jnp.float32) / 255.0 - mean) / std


class PoseNet(nn.Module):
    """Backbone and integral head: pictures (B, H, H, 3) to poses (B, P, 3).

    The pose is x right, y down, z away from the camera, in patch units: [-1, 1]
    across the crop, and the same length in depth.

    ``net.init(key, images, train=False)`` gives ``params`` and ``batch_stats``;
    with ``train=True`` apply with ``mutable=["batch_stats"]``.

    Args:
        num_joints: P.
        network: ``"resnet"``, the paper's, with an `IntegralHead`; or ``"pyramid"`` or
            ``"efficientnet"``, `Pyramid` and `EfficientNet` with a `LocationHead`,
            which of the following fields use `dtype` and the last four, the first of
            them `width` as well.
        resnet_layers: layers of the ResNet, see `ResNet`.
        width: factor on the backbone's channels.
        stem: of the ResNet, see `ResNet`.
        heatmap_size: rows and columns of the heat map; must be what the picture's size
            and `num_deconv` give.
        depth_bins: cells of the heat map along z.
        deconv_channels: channels of each transposed convolution.
        num_deconv: number of transposed convolutions.
        dtype: of the activations; parameters, statistics and the expectation over the
            heat map are float32.
        yaw_classes: directions that the body may face, see `LocationHead`; 0: none.
        num_depths: depths of each joint, one for every mode that shares the network.
        axis_name: mapped axis over which the batch statistics are averaged.
        folded: without batch norms: `pose_jax.fold.fold_batch_norms` makes one.

    Raises:
        ValueError: sizes that do not fit, with the value that would.
    """

    num_joints: int
    network: str = "resnet"
    resnet_layers: int = 50
    width: float = 1.0
    stem: str = "imagenet"
    heatmap_size: int = 64
    depth_bins: int = 64
    deconv_channels: int = 256
    num_deconv: int = 3
    dtype: jnp.dtype | type = jnp.float32
    yaw_classes: int = 0
    num_depths: int = 1
    axis_name: str | None = None
    folded: bool = False

    def setup(self) -> None:
        how = (self.axis_name, self.folded)
        if self.network in COARSEST:
            pyramid = self.network == "pyramid"
            self.backbone = Pyramid(self.width, *how) if pyramid else EfficientNet(*how)
            self.head = LocationHead(self.num_joints, self.num_depths, self.yaw_classes)
            return
        self.backbone = ResNet(self.resnet_layers, self.width, self.stem, *how)
        size = (self.depth_bins, self.num_deconv, self.deconv_channels)
        self.head = IntegralHead(self.num_joints, *size, *how)

    def __call__(
        self, images: UInt8[Array, "b h w 3"], train: bool
    ) -> Float[Array, "b p 3"]:
        """Pose of each picture, with the first of its depths."""
        return self.predict(images, train).pose

    def pose_and_spread(
        self, images: UInt8[Array, "b h w 3"], train: bool
    ) -> tuple[Float[Array, "b p 3"], Float[Array, "b p 3"]]:
        """Pose and the standard deviation of its error, of the first of its depths."""
        prediction = self.predict(images, train)
        return prediction.pose, prediction.spread[:, 0]

    def predict(self, images: UInt8[Array, "b h w 3"], train: bool) -> Prediction:
        """All that the losses use."""
        self._check_sizes(images.shape[1], images.shape[2])
        features: Any = self.backbone(normalise(images).astype(self.dtype), train)
        return self.head(features, train)

    def _check_sizes(self, height: int, width: int) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"network {self.network!r} is not one of {NETWORKS}")
        if coarsest := COARSEST.get(self.network):
            if height != width or height % coarsest:
                raise ValueError(
                    f"pictures of {height} x {width} pixels: the network "
                    f"{self.network!r} needs square ones whose side is a multiple of "
                    f"{coarsest}"
                )
            return
        if self.yaw_classes or self.num_depths > 1:
            raise ValueError(
                "yaw_classes and modes that share a backbone need network='pyramid' or "
                f"'efficientnet', not {self.network!r}"
            )
        if self.stem not in STEM_STRIDES:
            raise ValueError(f"stem {self.stem!r} is not one of {[*STEM_STRIDES]}")
        stride = STEM_STRIDES[self.stem]
        if height != width or height % stride:
            raise ValueError(
                f"pictures of {height} x {width} pixels: the {self.stem!r} stem needs "
                f"square pictures whose side is a multiple of {stride}"
            )
        heatmap_size = height // stride * 2**self.num_deconv
        if heatmap_size != self.heatmap_size:
            raise ValueError(
                f"heatmap_size {self.heatmap_size} does not fit: pictures of {height} "
                f"pixels, the {self.stem!r} stem and {self.num_deconv} transposed "
                f"convolutions give a heat map of {heatmap_size}; set heatmap_size="
                f"{heatmap_size}, or change image_size or num_deconv"
            )
