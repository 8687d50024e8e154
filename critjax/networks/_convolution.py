r"""Convolution with a chosen padding, fast on CPUs inside loops, too.

XLA's convolutions collapse inside loops (`jax.lax.scan`) on CPUs: a training step took 2.6 to 3.2 s with them and
0.23 s with products. On CPUs a convolution is therefore a product. Unfolding whole windows of k x k pixels writes k^2
copies of a batch, which takes longer than the product; here only their rows are unfolded, k copies, one product gives
the sums of all rows, and a window adds k of them, rows outside the image as the padding says. Derivatives of all
orders are those of this program. Other platforms keep their own convolution.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import lax

from critjax._checks import check_option
from critjax._programs import program
from critjax._typing import Array, ArrayLike

PADDINGS = ("zero", "periodic")
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def product(x: Array, matrix: Array) -> Array:
    """``x @ matrix`` over the last axis of x, as one product of two matrices.

    With all other axes as one, XLA's gradient reads x and the cotangent as they lie; with several it copies them first.
    """
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _shifted(x: Array, axis: int, distance: int, padding: str) -> Array:
    """Move the pixels of x along an axis; zeros, or the other side, come in."""
    if distance == 0:
        return x
    if padding == "periodic":
        return jnp.roll(x, distance, axis)
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (distance, -distance, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _product(x: Array, kernel: Array, dilation: int, padding: str) -> Array:
    size, channels, outputs = kernel.shape[1:]
    distances = [dilation * (size // 2 - a) for a in range(size)]
    rows = jnp.concatenate([_shifted(x, 2, d, padding) for d in distances], axis=-1)
    if (size - 1) * channels <= outputs:
        windows = jnp.concatenate([_shifted(rows, 1, d, padding) for d in distances], axis=-1)
        return product(windows, kernel.reshape(-1, outputs))
    # One product for the rows of all windows; a window's sum is that of its rows.
    sums = product(rows, kernel.transpose(1, 2, 0, 3).reshape(size * channels, size * outputs))
    parts = jnp.split(sums, size, axis=-1)
    return functools.reduce(
        jnp.add, [_shifted(p, 1, d, padding) for p, d in zip(parts, distances, strict=True)]
    )


def _stock(x: Array, kernel: Array, dilation: int, padding: str) -> Array:
    reach = dilation * (kernel.shape[0] // 2)
    mode = "wrap" if padding == "periodic" else "constant"
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode=mode)
    numbers = lax.conv_dimension_numbers(padded.shape, kernel.shape, _LAYOUT)
    return lax.conv_general_dilated(
        padded, kernel, (1, 1), "VALID", rhs_dilation=(dilation, dilation), dimension_numbers=numbers
    )


def convolve(x: ArrayLike, kernel: ArrayLike, *, padding: str = "zero", dilation: int = 1) -> Array:
    """Convolve a batch with a kernel of odd size; the output keeps the size of the input.

    Parameters
    ----------
    x : (B, H, W, C) array
    kernel : (k, k, C, O) array
        k odd.
    padding : "zero" or "periodic"
    dilation : int
        Distance of the kernel's taps in pixels.

    Returns
    -------
    (B, H, W, O) array
        ``y_i = sum_r kernel[r] x_{i + dilation r}``, r from -(k-1)/2 to (k-1)/2.

    Example
    -------
    Neighbours that a pixel of a 3 x 4 image has, itself included:

    >>> print(np.asarray(convolve(np.ones((1, 3, 4, 1)), np.ones((3, 3, 1, 1))))[0, :, :, 0])
    [[4. 6. 6. 4.]
     [6. 9. 9. 6.]
     [4. 6. 6. 4.]]
    """
    check_option("padding", padding, PADDINGS)
    return _convolve(x, kernel, padding=padding, dilation=dilation)


def convolved(x: Array, kernel: Array, *, padding: str, dilation: int) -> Array:
    """Convolve inside of a program, see `convolve`."""
    fixed = {"dilation": dilation, "padding": padding}
    cpu, default = functools.partial(_product, **fixed), functools.partial(_stock, **fixed)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


_convolve = program(convolved, static_argnames=("padding", "dilation"))
