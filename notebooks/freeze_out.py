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
# # Freeze-out: a field that is swept through its critical noise
#
# As the noise falls, the relaxation of the uniform mode slows down, and at some distance before the critical noise the
# field can no longer follow: its correlation length freezes. This notebook computes that length in linear theory,
# shows what a noise ladder that is too coarse makes of it, and simulates what samples really do.

# %%
import jax.numpy as jnp
import numpy as np

import critjax as cj
from critjax.fluctuations import freeze_out_length, langevin_structure_factor, resolves_freeze_out
from critjax.observables import second_moment_length
from critjax.studies.freeze_out import FreezeOutSettings, run

# %% [markdown]
# ## 1. Linear theory
#
# Annealed Langevin dynamics takes $n$ steps $x \leftarrow x + e(D-x) + \sqrt{2e}\,\sigma z$ per unit of $\ln\sigma$.
# With the bare symbol of two constant patches, $\hat D = c_k/\sigma^2$, every mode obeys a linear recursion, and theory
# says $\xi = \sqrt K\,(2ne/\pi)^{1/4}$ at $\sigma_c$.

# %%
size, width, e = 5, 1024, 0.1
kernel = jnp.ones((size, size, 1, 1))
window = cj.fourier.kernel_to_symbol(kernel, (1, width))  # a long strip: lengths of any size fit
stiffness = (size**2 - 1) / 24


def frozen_length(ladder, steps):
    """Second-moment length at the last level of a ladder."""
    spectrum = langevin_structure_factor(
        lambda sigma: window / sigma**2, ladder, langevin_steps=steps, step_size=e, levels=[len(ladder) - 1]
    )
    return float(second_moment_length(spectrum[0]))


numbers = np.array([4000, 16000, 64000])
fine, coarse = [], []
for n in map(int, numbers):
    spacing = max(1, n // 1000) / n  # a step or a few at every level
    ladder = size * np.exp(spacing * np.arange(int(0.5 / spacing), -1, -1))
    assert resolves_freeze_out(ladder, n * e, size)
    fine.append(frozen_length(ladder, max(1, n // 1000)))
    few = size * np.exp(np.linspace(0.5, 0.0, 6))  # levels 0.1 apart
    assert not resolves_freeze_out(few, n * e, size)
    coarse.append(frozen_length(few, n // 10))

print("     n    theory   fine ladder   coarse ladder")
for row in zip(numbers, np.asarray(freeze_out_length(stiffness, numbers * e)), fine, coarse, strict=True):
    print("{:6d}  {:8.3f}  {:12.3f}  {:14.3f}".format(*row))
slopes = [np.polyfit(np.log(numbers), np.log(lengths), 1)[0] for lengths in (fine, coarse)]
print(
    f"linear exponents: resolved ladder {slopes[0]:.2f} (theory 0.25), coarse ladder {slopes[1]:.2f} (artefact 0.5)"
)
assert abs(slopes[0] - 0.25) < 0.01 and abs(slopes[1] - 0.5) < 0.05

# %% [markdown]
# ## 2. Samples
#
# Fluctuations remove the transition at the bare $\sigma_c$, so that this law is a test of the equation. Samples are a
# measurement: at $\sigma_c$ their domains do not care how slowly they were made; near the transition that they do have,
# far below $\sigma_c$, they do.

# %%
settings = FreezeOutSettings(
    steps_per_tau=(10, 40, 160), grid=32, num_samples=64, max_samples=128, fit_from=10, binder_grids=()
)
result = run(settings)
for level, ratio in enumerate(result.sigma_ratio.values):
    slope, error = (float(result[f"xi_denoised_sign_exponent{part}"][level]) for part in ("", "_error"))
    lengths = ", ".join(f"{value:.2f}" for value in result.xi_denoised_sign.values[:, level])
    print(f"sigma/sigma_c = {ratio:.2f}: domains of {lengths} pixels, exponent {slope:.3f} +- {error:.3f}")
exponents = result.xi_denoised_sign_exponent.values
assert abs(exponents[0]) < 0.05 < 0.1 < exponents[1]

# %% [markdown]
# The Gaussian closure knows about the fluctuations and predicts the walls at the bare critical noise; linear theory
# does not:

# %%
for name in ("linear_wall_density", "closure_wall_density", "wall_density"):
    print(f"{name:22s}", np.round(result[name].values[:, 0], 4))

# %% [markdown]
# `run()` with its defaults covers three decades of n, on 64 x 64 pixels, and Binder cumulants of grids up to 128 x 128;
# `critjax.plotting.frozen_length_figure` and `binder_figure` draw the result.
