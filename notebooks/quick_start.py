# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Quick start: from a bank of patches to a measured critical point
#
# A patch score model denoises every pixel by a posterior mean over a bank of patches. As the noise falls, the
# homogeneous state loses stability: a spatial mode softens, then grows. This notebook predicts where, simulates
# the generation, and measures it. Open it with jupytext, or run it as a script.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import critjax as cj

# %% [markdown]
# ## 1. A bank whose critical point is known in closed form
#
# Two constant patches, +1 and -1, on a 9 x 9 window: the denoiser is $\tanh(P\bar m/\sigma^2)$ with
# $\bar m$ the window mean, and the uniform mode turns marginal at $\sigma_c = \sqrt P = 9$.

# %%
size, grid = 9, (64, 64)
bank = cj.two_pattern_bank(size)


def symbol_fn(sigma):
    """Fourier symbol of the response to a plane wave, at the homogeneous state."""
    return cj.symbol(bank, sigma, grid)


point = cj.critical_point(symbol_fn, cj.geometric_sigmas(20.0, 2.0, 40))
print(f"sigma_c = {float(point.sigma):.4f} (exact: 9), kind: {cj.instability_kind(point)}")
assert abs(float(point.sigma) - size) < 1e-3

# %% [markdown]
# The same in the variables of other papers:

# %%
print(cj.noise.describe_noise(float(point.sigma)))

# %% [markdown]
# ## 2. Which modes grow, and when
#
# The growth rate per e-fold of the noise is $\Gamma = \mathrm{Re}\,\hat D(k) - 1$ for the probability flow.

# %%
sigmas = jnp.array([12.0, 9.0, 6.0, 4.0])
rates = jax.vmap(lambda s: cj.radial_average(cj.growth_rate(symbol_fn(s), s)))(sigmas)
print("sigma   growth rate of the four smallest |k|")
for sigma, rate in zip(sigmas, rates, strict=True):
    print(f"{float(sigma):5.1f}  ", np.round(np.asarray(rate[:4]), 3))

# %% [markdown]
# ## 3. Generate images and compare
#
# Everything is unbatched; a batch is `jax.vmap` over keys.

# %%
ladder = cj.geometric_sigmas(24.0, 1.0, 60)
denoise = cj.patch_denoiser(bank)
keys = jax.random.split(jax.random.key(0), 16)
paths = jax.jit(jax.vmap(lambda key: cj.sample(denoise, key, (*grid, 1), ladder, save_every=10)))(keys)

# %% [markdown]
# The regression symbol $\lambda_{reg} = \langle D_k x_k^*\rangle/\langle|x_k|^2\rangle$ is what drives the simulated
# structure factor. It lags the bare symbol, because at $\sigma_c$ the argument of the tanh already fluctuates:

# %%
print("sigma^2   bare   simulated lambda_reg (smallest nonzero shell)")
for level, sigma in enumerate(paths.sigma[0]):
    bare = float(cj.radial_average(symbol_fn(sigma)[..., 0, 0].real)[1])
    measured = cj.regression_symbol(paths.x[:, level], paths.denoised[:, level])[..., 0, 0].real
    print(f"{float(sigma) ** 2:7.1f}  {bare:5.2f}   {float(cj.radial_average(measured)[1]):5.2f}")

# %% [markdown]
# `critjax criticality --bank two-pattern` does all of this with 512 samples, error bars, figures and a report.
