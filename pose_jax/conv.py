"""Convolutions of the student, written so that XLA is fast on CPUs and GPUs.

Pictures are (B, H, W, C), kernels (kh, kw, C_in, C_out). Parameters are float32 and
are cast to the dtype of the input, so that a bfloat16 network keeps float32 weights.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from runtime.devices import usable_cores

Initializer = Callable[..., Array]
EPSILON = 1e-5  # of the batch norms, torchvision's
fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv2d(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    *,
    stride: int = 1,
    padding: int = 0,
) -> Float[Array, "b i j d"]:
    """Cross-correlation with the same zero padding on all four sides.

    Args:
        x: pictures.
        kernel: odd or even window, its centre is not assumed anywhere.
        stride: step of the window, equal in both directions.
        padding: rows and columns of zeros added on each side (torch's ``padding``).

    Returns:
        pictures of ``(h + 2 padding - kh) // stride + 1`` rows.
    """
    if kernel.shape[:2] == (1, 1) and padding == 0:
        # XLA:CPU runs the gradient of a 1x1 convolution, and that of a product with
        # more than one batch axis, several times slower than a plain product.
        x = x[:, ::stride, ::stride]
        flat = product(x.reshape(-1, x.shape[-1]), kernel[0, 0])
        return flat.reshape(*x.shape[:3], -1)
    if min(x.shape[1:3]) < min(kernel.shape[:2]):
        return _conv2d_as_product(x, kernel, stride, padding)
    # At all other sizes XLA's own convolution is near the peak of the machine.
    return _convolve(x, kernel, stride, padding)


def _conv2d_of_xla(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


_convolve = jax.custom_vjp(_conv2d_of_xla, nondiff_argnums=(2, 3))


def _convolve_forward(
    x: Array, kernel: Array, stride: int, padding: int
) -> tuple[Array, tuple[Array, Array]]:
    return _conv2d_of_xla(x, kernel, stride, padding), (x, kernel)


def _convolve_backward(
    stride: int, padding: int, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    # XLA:CPU leaves most of these gradients to one thread, and looks for another only
    # where many operations wait: in two halves of the batch they are spread, and a step
    # on two cores takes .88 of the time. With few channels it has another, slower form,
    # which takes all threads by itself.
    idle = jax.default_backend() == "cpu" and usable_cores() > jax.local_device_count()
    parts = 2 if idle and len(x) % 2 == 0 and min(kernel.shape[2:]) >= 32 else 1
    found = [
        jax.vjp(lambda x, k: _conv2d_of_xla(x, k, stride, padding), part, kernel)[1](g)
        for part, g in zip(jnp.split(x, parts), jnp.split(gradient, parts), strict=True)
    ]
    x_parts, kernel_parts = zip(*found, strict=True)
    return jnp.concatenate(x_parts), functools.reduce(jnp.add, kernel_parts)


_convolve.defvjp(_convolve_forward, _convolve_backward)


@jax.custom_vjp
def product(x: Float[Array, "n c"], kernel: Float[Array, "c d"]) -> Float[Array, "n d"]:
    """``x @ kernel`` with a gradient that is fast on CPUs; see `weight_gradient`."""
    return x @ kernel


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel), (x, kernel)


def _product_backward(
    saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    return gradient @ kernel.T, weight_gradient(x, gradient)


product.defvjp(_product_forward, _product_backward)


def weight_gradient(
    x: Float[Array, "n c"], gradient: Float[Array, "n d"]
) -> Float[Array, "c d"]:
    """``x.T @ gradient``, in the order of factors that is the faster one."""
    # XLA:CPU multiplies two tall matrices up to 1.9 times faster when the wider one is
    # on the right; the barrier keeps it from swapping them back. Other backends choose
    # for themselves.
    if x.shape[1] <= gradient.shape[1] or jax.default_backend() != "cpu":
        return x.T @ gradient
    return lax.optimization_barrier(gradient.T @ x).T


def _conv2d_as_product(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    stride: int,
    padding: int,
) -> Float[Array, "b i j d"]:
    """`conv2d` as a product of all windows with the kernel."""
    # For pictures smaller than the kernel, where XLA:CPU takes a path over ten times
    # slower than at the next size. (At any larger size the windows only cost memory.)
    kh, kw, c, d = kernel.shape
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    h, w = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    windows = jnp.concatenate(
        [
            x[:, i : i + h : stride, j : j + w : stride]
            for i in range(kh)
            for j in range(kw)
        ],
        axis=-1,
    )
    flat = product(windows.reshape(-1, kh * kw * c), kernel.reshape(-1, d))
    return flat.reshape(*windows.shape[:3], d)


@jax.custom_vjp
def upsample_conv2d(
    x: Float[Array, "b h w c"], kernel: Float[Array, "4 4 c d"]
) -> Float[Array, "b i j d"]:
    """Transposed convolution 4x4, stride 2, padding 1: twice the height and width.

    ``y[o] = sum_{i, k : o = 2 i - 1 + k} x[i] kernel[k]`` along each axis, as torch's
    ``ConvTranspose2d(4, stride=2, padding=1)``.

    Args:
        x: pictures.
        kernel: torch's weight, axes moved to (row, column, in, out).

    Returns:
        pictures (b, 2h, 2w, d).
    """
    return _upsample_phases(x, kernel)


def _upsample_phases(x: Array, kernel: Array) -> Array:
    # Even outputs see kernel rows 3 and 1 of inputs m - 1 and m, odd ones rows 2 and 0
    # of m and m + 1: each (row, column) parity is a 2x2 convolution of its own. XLA:CPU
    # has no fast weight gradient for the dilated form: 9 times slower at 8x8 and 64
    # channels, and worse above.
    b, h, w, c = x.shape
    d = kernel.shape[-1]
    taps = kernel[::-1, ::-1].reshape(2, 2, 2, 2, c, d)  # tap, parity, tap, parity
    rows = []
    for i in (0, 1):
        phases = [
            lax.conv_general_dilated(
                x,
                taps[:, i, :, j],
                (1, 1),
                [(1 - i, i), (1 - j, j)],
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            for j in (0, 1)
        ]
        rows.append(jnp.stack(phases, axis=3))
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, d)


def _upsample_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return upsample_conv2d(x, kernel), (x, kernel)


def _upsample_backward(
    saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    h, w, c = x.shape[1:]
    d = kernel.shape[-1]
    if c <= d or jax.default_backend() != "cpu":
        return jax.vjp(_upsample_phases, x, kernel)[1](gradient)
    (x_gradient,) = jax.vjp(lambda x: _upsample_phases(x, kernel), x)[1](gradient)
    # A product for each of the 16 taps, where the wider factor is on the left: twice
    # as fast as the gradient of the phases (8x8, 2048 to 256 channels).
    padded = jnp.pad(gradient, ((0, 0), (1, 1), (1, 1), (0, 0)))
    flat = x.reshape(-1, c)
    taps = [
        weight_gradient(
            flat, padded[:, i : i + 2 * h : 2, j : j + 2 * w : 2].reshape(-1, d)
        )
        for i in range(4)
        for j in range(4)
    ]
    return x_gradient, jnp.stack(taps).reshape(kernel.shape)


upsample_conv2d.defvjp(_upsample_forward, _upsample_backward)


def pad_same(x: Float[Array, "b h w c"], size: int, stride: int) -> Array:
    """Zeros around pictures as TensorFlow's ``"SAME"``, for an even height and width.

    With stride 2 there is one more behind than before.
    """
    before, after = (size - stride) // 2, (size - stride + 1) // 2
    return jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))


def depthwise(
    x: Float[Array, "b h w c"], taps: Float[Array, "kh kw c"], *, stride: int = 1
) -> Float[Array, "b i j c"]:
    """Cross-correlation of each channel with a window of its own, without padding.

    Args:
        x: pictures, for stride 2 of an even height and width after `pad_same`.
        taps: the window of every channel.
        stride: 1 or 2.
    """
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            x,
            taps[:, :, None],
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )
    return _windows(x, taps, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _windows(x: Array, taps: Array, stride: int) -> Array:
    # XLA:CPU has no fast convolution by groups: 20 to 40 times slower than these sums.
    # Every second row and column is a picture with stride 1 and every second tap.
    (height, width), (kh, kw) = x.shape[1:3], taps.shape[:2]
    h, w = (height - kh) // stride + 1, (width - kw) // stride + 1
    total: Any = 0.0
    for i, j in itertools.product(range(stride), repeat=2):
        part = taps[i::stride, j::stride]
        total += _shifted_sum(x[:, i::stride, j::stride], part, h, w)
    return total


def _shifted_sum(x: Array, taps: Array, h: int, w: int) -> Array:
    kh, kw, _ = taps.shape
    total: Any = 0.0
    for i, j in itertools.product(range(kh), range(kw)):
        total += x[:, i : i + h, j : j + w] * taps[i, j].reshape(1, 1, 1, -1)
    return total


def _windows_forward(
    x: Array, taps: Array, stride: int
) -> tuple[Array, tuple[Array, Array]]:
    return _windows(x, taps, stride), (x, taps)


def _windows_backward(
    stride: int, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, taps = saved
    total: Any = 0.0
    for i, j in itertools.product(range(stride), repeat=2):
        part = taps[i::stride, j::stride][::-1, ::-1]
        rows, columns = part.shape[0] - 1, part.shape[1] - 1
        around = jnp.pad(gradient, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
        h, w = gradient.shape[1] + rows, gradient.shape[2] + columns
        # To every row i, i + stride, ... of x.
        pads = [
            (k, n - k - stride * (m - 1) - 1, stride - 1)
            for k, n, m in ((i, x.shape[1], h), (j, x.shape[2], w))
        ]
        spread = _shifted_sum(around, part, h, w)
        zero = jnp.zeros((), spread.dtype)
        total += lax.pad(spread, zero, [(0, 0, 0), *pads, (0, 0, 0)])
    return total, _taps_gradient(x, gradient, taps.shape, stride)


def _taps_gradient(
    x: Array, gradient: Array, size: tuple[int, ...], stride: int
) -> Array:
    # A row of a picture at a time, with all taps: products and their sums stay in the
    # cache, 3 to 6 times faster than a sum for each tap.
    (h, w, c), (kh, kw, _) = gradient.shape[1:], size
    if stride == 1:  # a row is one long vector, fast for few channels too
        x, gradient = (a.reshape(*a.shape[:2], 1, -1) for a in (x, gradient))
    slopes = gradient.reshape(-1, *gradient.shape[2:])

    def add(total: tuple[Array, ...], place: Array) -> tuple[tuple[Array, ...], None]:
        start = (place // h, stride * (place % h), 0, 0)
        rows = lax.dynamic_slice(x, start, (1, kh, *x.shape[2:]))[0]
        slope, moved = slopes[place][None], []
        for j in range(kw):
            if stride == 1:
                seen = rows[..., j * c : (j + w) * c]
            else:
                seen = rows[:, j : j + stride * (w - 1) + 1 : stride]
            moved.append(seen * slope)
        return tuple(map(jnp.add, total, moved)), None

    zeros = (jnp.zeros((kh, *slopes.shape[1:]), gradient.dtype),) * kw
    total, _ = lax.scan(add, zeros, jnp.arange(len(slopes)))
    return jnp.stack([part.reshape(kh, w, c).sum(1) for part in total], 1)


_windows.defvjp(_windows_forward, _windows_backward)


class Depthwise(nn.Module):
    """`depthwise` with padding that keeps the size; parameters ``taps``, ``bias``."""

    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
        shape, init = (self.size, self.size, x.shape[-1]), nn.initializers.normal(0.1)
        taps = self.param("taps", init, shape, jnp.float32).astype(x.dtype)
        x = pad_same(x, self.size, self.stride)
        return _shifted(self, depthwise(x, taps, stride=self.stride))


class Conv(nn.Module):
    """Convolution, `conv2d`; parameters ``kernel`` and, if asked for, ``bias``."""

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = False
    kernel_init: Initializer = fan_out_normal

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv2d(x, kernel.astype(x.dtype), stride=self.stride, padding=self.padding)
        return _shifted(self, y) if self.use_bias else y


class UpsampleConv(nn.Module):
    """Transposed convolution 4x4, stride 2, `upsample_conv2d`; parameter ``kernel``."""

    features: int
    use_bias: bool = False
    kernel_init: Initializer = nn.initializers.normal(0.001)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        shape = (4, 4, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = upsample_conv2d(x, kernel.astype(x.dtype))
        return _shifted(self, y) if self.use_bias else y


def _shifted(module: nn.Module, y: Array) -> Array:
    """``y`` plus the module's parameter ``bias``."""
    bias = module.param("bias", nn.initializers.zeros, (y.shape[-1],), jnp.float32)
    return y + bias.astype(y.dtype).reshape(1, 1, 1, -1)


class BatchNorm(nn.Module):
    """Batch norm as torchvision's, statistics in the parameters' dtype, float32.

    A batch is normalised by its biased variance; the running variance is unbiased.
    Linen's own is biased in both, and mixes bfloat16 activations with float32
    parameters by implicit promotion, which strict promotion rejects.

    Args:
        train: normalise by the batch and update the running statistics, or by these.
        axis_name: mapped axis over which the batch's statistics are averaged.
    """

    train: bool
    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        now_mean, now_var = mean.value, var.value
        if self.train:
            now_mean, now_var = self._moments(x.astype(scale.dtype))
            if not self.is_initializing():
                keep, count = self.momentum, self._count(x)
                unbiased = now_var * (count / max(count - 1, 1))
                mean.value = keep * mean.value + (1.0 - keep) * now_mean
                var.value = keep * var.value + (1.0 - keep) * unbiased
        factor = scale * lax.rsqrt(now_var + self.epsilon)
        offset = bias - now_mean * factor
        factor, offset = (
            a.astype(x.dtype).reshape(1, 1, 1, -1) for a in (factor, offset)
        )
        return x * factor + offset

    def _count(self, x: Float[Array, "b h w c"]) -> int:
        """Values per channel that the statistics are made of, over all devices."""
        devices = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
        return devices * x.size // x.shape[-1]

    def _moments(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        # Both in one message: a device waits for the others once, not twice.
        moments = jnp.stack([x.mean((0, 1, 2)), jnp.square(x).mean((0, 1, 2))])
        if self.axis_name is not None and not self.is_initializing():
            moments = lax.pmean(moments, self.axis_name)
        # Rounding can make the difference of two equal numbers slightly negative.
        return moments[0], jnp.maximum(moments[1] - jnp.square(moments[0]), 0.0)


def make_norm(
    *, train: bool, axis_name: str | None, folded: bool
) -> Callable[[str], Callable[[Array], Array]]:
    """``norm(name)``: a `BatchNorm`, or nothing in a network with folded norms."""

    def norm(name: str) -> Callable[[Array], Array]:
        return (lambda x: x) if folded else BatchNorm(train, axis_name, name=name)

    return norm


def relu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """``max(x, 0)``; not a number where ``x`` is not, gradient 0 where it is 0."""
    # XLA:CPU computes a maximum anew, and out of order, inside the transposed copy that
    # the kernel's gradient needs; a selection it stores: 8 % of a small ResNet's step.
    return jnp.where(x <= 0.0, 0.0, x)


def max_pool_3x3(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """Maximum over 3x3 windows, stride 2, padding 1 with minus infinity."""
    # Rows, then columns, as maxima of slices: the gradient of a pooling primitive is
    # six times slower on CPUs.
    pads = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    h, w = x.shape[1] - 2, x.shape[2] - 2
    a, b, c = (x[:, i : i + h : 2] for i in range(3))
    x = jnp.maximum(jnp.maximum(a, b), c)
    a, b, c = (x[:, :, j : j + w : 2] for j in range(3))
    return jnp.maximum(jnp.maximum(a, b), c)
