r"""Convolution with a chosen padding, fast on CPUs inside loops, too.

XLA's convolutions collapse inside loops (`jax.lax.scan`) on CPUs: a step took 2.6 to 3.2 s with them and 0.23 s with
products. On CPUs the sum is therefore one product of unfolded windows with the kernel; other platforms keep their own
convolution.
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


def pad_field(x: Array, reach: int, padding: str) -> Array:
    """Pad (B, H, W, C) by ``reach`` pixels on every side, with zeros or periodically."""
    check_option("padding", padding, PADDINGS)
    if reach == 0:
        return x
    mode = "wrap" if padding == "periodic" else "constant"
    return jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode=mode)


def _unfold(x: Array, size: int, dilation: int, padding: str) -> Array:
    """Put the window of every pixel into one row: (B H W, size size C)."""
    height, width, channels = x.shape[1:]
    padded = pad_field(x, dilation * (size // 2), padding)
    offsets = [(dilation * a, dilation * b) for a in range(size) for b in range(size)]
    windows = [padded[:, a : a + height, b : b + width] for a, b in offsets]
    return jnp.concatenate(windows, axis=-1).reshape(-1, size * size * channels)


def _product(x: Array, kernel: Array, dilation: int, padding: str) -> Array:
    rows = _unfold(x, kernel.shape[0], dilation, padding)
    return (rows @ kernel.reshape(-1, kernel.shape[-1])).reshape(*x.shape[:-1], kernel.shape[-1])


def _stock(x: Array, kernel: Array, dilation: int, padding: str) -> Array:
    padded = pad_field(x, dilation * (kernel.shape[0] // 2), padding)
    numbers = lax.conv_dimension_numbers(padded.shape, kernel.shape, _LAYOUT)
    return lax.conv_general_dilated(
        padded, kernel, (1, 1), "VALID", rhs_dilation=(dilation, dilation), dimension_numbers=numbers
    )


def _either(x: Array, kernel: Array, dilation: int, padding: str) -> Array:
    fixed = {"dilation": dilation, "padding": padding}
    cpu, default = functools.partial(_product, **fixed), functools.partial(_stock, **fixed)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


_trained = jax.custom_vjp(_either, nondiff_argnums=(2, 3))


def _forward(x: Array, kernel: Array, dilation: int, padding: str) -> tuple[Array, tuple[Array, Array]]:
    return _either(x, kernel, dilation, padding), (x, kernel)


def _backward(
    dilation: int, padding: str, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    def stock(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x, k: _stock(x, k, dilation, padding), x, kernel)[1](gradient)

    def products(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        # The adjoint of a convolution, zero or periodic, is the one with the turned kernel.
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        rows = _unfold(x, kernel.shape[0], dilation, padding)
        weights = rows.T @ gradient.reshape(-1, gradient.shape[-1])
        return _product(gradient, turned, dilation, padding), weights.reshape(kernel.shape)

    return lax.platform_dependent(*saved, gradient, cpu=products, default=stock)


_trained.defvjp(_forward, _backward)


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
        Gradients by products, too, on CPUs; reverse mode only.

    Returns
    -------
    (B, H, W, O) array
        ``y_i = sum_r kernel[r] x_{i + dilation r}``, r from -(k-1)/2 to (k-1)/2.
    """
    return (_trained if training else _either)(x, kernel, dilation, padding)
