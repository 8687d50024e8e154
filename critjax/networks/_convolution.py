r"""Convolution with a chosen padding, and a weight gradient that is fast on CPUs.

XLA's weight gradient of a small convolution runs far below a processor's speed on CPUs. In training it is replaced
there by a product of unfolded windows with the output's gradient, summed over chunks of the batch. Other platforms
keep their own.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from critjax._checks import check_option
from critjax._typing import Array

PADDINGS = ("zero", "periodic")
_LAYOUT = ("NHWC", "HWIO", "NHWC")
#: Images whose windows are unfolded at once in the weight gradient.
_CHUNK = 8


def pad_field(x: Array, reach: int, padding: str) -> Array:
    """Pad (B, H, W, C) by ``reach`` pixels on every side, with zeros or periodically."""
    check_option("padding", padding, PADDINGS)
    if reach == 0:
        return x
    mode = "wrap" if padding == "periodic" else "constant"
    return jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode=mode)


def _valid(x: Array, kernel: Array, dilation: int) -> Array:
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, _LAYOUT)
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", rhs_dilation=(dilation, dilation), dimension_numbers=numbers
    )


def _weight_gradient(x: Array, gradient: Array, shape: tuple[int, ...], dilation: int) -> Array:
    """Sum over pixels of window times output gradient: (k, k, C, O), by one product per offset and chunk."""
    size, _, channels, outputs = shape
    batch, height, width = gradient.shape[:3]
    chunk = next(n for n in range(min(_CHUNK, batch), 0, -1) if batch % n == 0)

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        images, slopes = pair
        windows = [
            images[:, a * dilation : a * dilation + height, b * dilation : b * dilation + width]
            for a in range(size)
            for b in range(size)
        ]
        unfolded = jnp.concatenate(windows, axis=-1).reshape(-1, size * size * channels)
        return total + unfolded.T @ slopes.reshape(-1, outputs), None

    start = jnp.zeros((size * size * channels, outputs), gradient.dtype)
    parts = (x.reshape(-1, chunk, *x.shape[1:]), gradient.reshape(-1, chunk, *gradient.shape[1:]))
    total, _ = lax.scan(add, start, parts)
    return total.reshape(shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _trained(x: Array, kernel: Array, dilation: int) -> Array:
    return _valid(x, kernel, dilation)


def _trained_forward(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    return _valid(x, kernel, dilation), (x, kernel)


def _trained_backward(dilation: int, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    (back,) = jax.linear_transpose(lambda x: _valid(x, kernel, dilation), x)(gradient)

    def stock(x: Array, gradient: Array) -> Array:
        return jax.linear_transpose(lambda k: _valid(x, k, dilation), kernel)(gradient)[0]

    def unfolded(x: Array, gradient: Array) -> Array:
        return _weight_gradient(x, gradient, kernel.shape, dilation)

    return back, lax.platform_dependent(x, gradient, cpu=unfolded, default=stock)


_trained.defvjp(_trained_forward, _trained_backward)


def convolve(
    x: Array, kernel: Array, *, padding: str = "zero", dilation: int = 1, training: bool = False
) -> Array:
    """Convolve a batch with a kernel of odd size; the output keeps the size of the input.

    Parameters
    ----------
    x : (B, H, W, C) array
    kernel : (k, k, C, O) array
        k odd.
    padding : "zero" or "periodic"
    dilation : int
        Distance of the kernel's taps in pixels.
    training : bool
        Use the weight gradient of this module on CPUs; it is for reverse mode only.

    Returns
    -------
    (B, H, W, O) array
        ``y_i = sum_r kernel[r] x_{i + dilation r}``, r from -(k-1)/2 to (k-1)/2.
    """
    padded = pad_field(x, dilation * (kernel.shape[0] // 2), padding)
    return _trained(padded, kernel, dilation) if training else _valid(padded, kernel, dilation)
