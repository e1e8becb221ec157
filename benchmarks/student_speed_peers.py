"""The student's network in PyTorch, to compare its speed with ours.

The same layers with torchvision's names, written as is usual in PyTorch: channels
first, its own batch norm, one softmax over the volume. A test compares poses and
gradients with ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from pose_jax.model import IMAGENET_MEAN, IMAGENET_STD, PoseNet
from pose_jax.resnet import STAGE_SIZES, scaled_width


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class Block(nn.Module):
    def __init__(self, inputs: int, channels: int, stride: int, wide: bool) -> None:
        super().__init__()
        outputs = channels * 4 if wide else channels
        self.conv1 = conv(inputs, channels, *((1, 1) if wide else (3, stride)))
        self.conv2 = conv(channels, channels, 3, stride if wide else 1)
        self.bn1, self.bn2 = (nn.BatchNorm2d(channels) for _ in range(2))
        self.wide = wide
        if wide:
            self.conv3 = conv(channels, outputs, 1)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = (conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
            self.downsample = nn.Sequential(*shortcut)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.wide:
            y = self.bn3(self.conv3(self.relu(y)))
        return self.relu(y + self.downsample(x))


class Pose(nn.Module):
    """A network like ``net``."""

    def __init__(self, net: PoseNet) -> None:
        super().__init__()
        self.net, wide = net, net.resnet_layers >= 50
        inputs = scaled_width(64, net.width)
        imagenet = net.stem == "imagenet"
        self.conv1 = conv(3, inputs, 7 if imagenet else 3, 2)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        for stage, count in enumerate(STAGE_SIZES[net.resnet_layers]):
            channels = scaled_width(64 * 2**stage, net.width)
            blocks = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(Block(inputs, channels, stride, wide))
                inputs = channels * 4 if wide else channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        head: list[nn.Module] = []
        for _ in range(net.num_deconv):
            up = nn.ConvTranspose2d(inputs, net.deconv_channels, 4, 2, 1, bias=False)
            head += [up, nn.BatchNorm2d(net.deconv_channels), nn.ReLU(inplace=True)]
            inputs = net.deconv_channels
        self.head = nn.Sequential(*head)
        self.final = nn.Conv2d(inputs, net.num_joints * net.depth_bins, 1)
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            colours = torch.tensor(values).reshape(1, 3, 1, 1)
            self.register_buffer(name, colours, persistent=False)

    def forward(self, images: Any) -> Any:
        x = (images.to(self.mean.dtype) / 255.0 - self.mean) / self.std
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.soft_argmax(self.final(self.head(x)))

    def soft_argmax(self, logits: Any) -> Any:
        b, _, h, w = logits.shape
        joints, depth = self.net.num_joints, self.net.depth_bins
        heat = logits.float().reshape(b, joints, -1).softmax(-1)
        heat = heat.reshape(b, joints, depth, h, w)
        axes = []
        for others, count in (((2, 3), w), ((2, 4), h), ((3, 4), depth)):
            cells = torch.arange(count, device=heat.device) + 0.5
            axes.append(heat.sum(others) @ (cells * (2.0 / count) - 1.0))
        return torch.stack(axes, -1)


def make_call(
    net: PoseNet,
    images: np.ndarray,
    target: np.ndarray,
    *,
    task: str,
    device: str,
    channels_last: bool = False,
    compiled: bool = False,
    autocast: bool = False,
) -> Callable[[], Any]:
    """A step of Adam on the L1 distance to ``target``, or the poses of ``images``."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    pictures = torch.tensor(images.transpose(0, 3, 1, 2), device=device)
    pictures = pictures.contiguous(memory_format=layout)
    module = Pose(net).to(device=device, memory_format=layout)  # type: ignore
    module.train(task == "train")
    wanted = torch.tensor(target, device=device)
    adam = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    run: Any = torch.compile(module) if compiled else module
    precision = torch.autocast(device, dtype=torch.bfloat16, enabled=autocast)

    def step() -> float:
        adam.zero_grad(set_to_none=True)
        with precision:
            loss = (run(pictures) - wanted).abs().mean()
        loss.backward()
        adam.step()
        return loss.item()

    def predict() -> np.ndarray:
        with torch.inference_mode(), precision:
            return run(pictures).cpu().numpy()

    return step if task == "train" else predict
