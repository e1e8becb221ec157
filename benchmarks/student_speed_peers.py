"""The student's network in PyTorch, to compare its speed with ours.

The same layers with torchvision's names, written as is usual in PyTorch: channels
first, its own batch norm, one softmax over the volume. A test compares poses and
gradients with ours.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from pose_jax.model import IMAGENET_MEAN, IMAGENET_STD, PoseNet
from pose_jax.resnet import STAGE_SIZES, scaled_width

# Does one step, or one prediction, and returns when it is done.
Step = Callable[[], Any]


def make_net(net: PoseNet) -> Any:
    """A ``torch.nn.Module`` like ``net``; its parameters are PyTorch's first ones."""
    torch: Any = importlib.import_module("torch")
    nn: Any = torch.nn
    make_block = _block_class(nn)

    class Pose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            wide, imagenet = net.resnet_layers >= 50, net.stem == "imagenet"
            inputs = scaled_width(64, net.width)
            self.conv1 = _conv(nn, 3, inputs, 7 if imagenet else 3, 2)
            self.bn1 = nn.BatchNorm2d(inputs)
            self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
            for stage, count in enumerate(STAGE_SIZES[net.resnet_layers]):
                channels = scaled_width(64 * 2**stage, net.width)
                blocks = []
                for i in range(count):
                    stride = 2 if stage > 0 and i == 0 else 1
                    blocks.append(make_block(inputs, channels, stride, wide))
                    inputs = channels * 4 if wide else channels
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.head, inputs = _head(nn, inputs, net)
            self.final = nn.Conv2d(inputs, net.num_joints * net.depth_bins, 1)
            for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
                colours = torch.tensor(values).reshape(1, 3, 1, 1)
                self.register_buffer(name, colours, persistent=False)

        def forward(self, images: Any) -> Any:
            x = (images.to(self.mean.dtype) / 255.0 - self.mean) / self.std
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return _soft_argmax(torch, self.final(self.head(x)), net)

    return Pose()


def _conv(nn: Any, inputs: int, outputs: int, size: int, stride: int = 1) -> Any:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


def _block_class(nn: Any) -> Any:
    """Basic block or, where ``wide``, bottleneck."""
    conv = functools.partial(_conv, nn)

    class Block(nn.Module):
        def __init__(self, inputs: int, channels: int, stride: int, wide: bool) -> None:
            super().__init__()
            outputs = channels * 4 if wide else channels
            first = 1 if wide else 3
            self.conv1 = conv(inputs, channels, first, 1 if wide else stride)
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

    return Block


def _head(nn: Any, inputs: int, net: PoseNet) -> tuple[Any, int]:
    """The deconvolutions, and their channels."""
    layers, outputs = [], net.deconv_channels
    for _ in range(net.num_deconv):
        up = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
        layers += [up, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        inputs = outputs
    return nn.Sequential(*layers), inputs


def _soft_argmax(torch: Any, logits: Any, net: PoseNet) -> Any:
    b, _, h, w = logits.shape
    heat = logits.float().reshape(b, net.num_joints, -1).softmax(-1)
    heat = heat.reshape(b, net.num_joints, net.depth_bins, h, w)
    axes = []
    for others, count in (((2, 3), w), ((2, 4), h), ((3, 4), net.depth_bins)):
        cells = torch.arange(count, device=heat.device) + 0.5
        axes.append(heat.sum(others) @ (cells * (2.0 / count) - 1.0))
    return torch.stack(axes, -1)


def train_step(
    module: Any,
    images: np.ndarray,
    target: np.ndarray,
    *,
    device: str,
    channels_last: bool,
    compiled: bool,
    autocast: bool,
    rate: float = 1e-3,
) -> Step:
    """One step of Adam on the L1 distance to ``target``; returns the loss."""
    torch: Any = importlib.import_module("torch")
    module, pictures = _placed(module, images, device, channels_last)
    wanted = torch.tensor(target, device=device)
    module.train()
    adam = torch.optim.Adam(module.parameters(), lr=rate, fused=True)
    run = torch.compile(module) if compiled else module

    def step() -> float:
        adam.zero_grad(set_to_none=True)
        with _precision(device, autocast):
            loss = (run(pictures) - wanted).abs().mean()
        loss.backward()
        adam.step()
        return loss.item()

    return step


def prediction(
    module: Any,
    images: np.ndarray,
    *,
    device: str,
    channels_last: bool,
    compiled: bool,
    autocast: bool,
) -> Step:
    """The poses of ``images``."""
    torch: Any = importlib.import_module("torch")
    module, pictures = _placed(module, images, device, channels_last)
    module.eval()
    run = torch.compile(module) if compiled else module

    def step() -> np.ndarray:
        with torch.inference_mode(), _precision(device, autocast):
            return run(pictures).cpu().numpy()

    return step


def _placed(
    module: Any, images: np.ndarray, device: str, channels_last: bool
) -> tuple[Any, Any]:
    torch: Any = importlib.import_module("torch")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    pictures = torch.tensor(images.transpose(0, 3, 1, 2), device=device)
    pictures = pictures.contiguous(memory_format=layout)
    return module.to(device=device, memory_format=layout), pictures


def _precision(device: str, autocast: bool) -> Any:
    if not autocast:
        return contextlib.nullcontext()
    torch: Any = importlib.import_module("torch")
    return torch.autocast(device, dtype=torch.bfloat16)
