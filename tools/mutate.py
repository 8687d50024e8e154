"""Break the library on purpose, one place at a time, and see whether some test notices.

Each mutation replaces one piece of text in a temporary copy of the package and runs a few tests against that
copy; they must fail. A mutation whose text no longer occurs exactly once must be rewritten together with the
code that it perturbs. Run from anywhere; names select mutations, ``--one-each`` the first of every package::

    python tools/mutate.py [--list] [--one-each] [name ...]

Exit status: 0 if every mutant was noticed, 1 if one survived, a text no longer matches, or a run broke down.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest
from hypothesis import Phase

ROOT = Path(__file__).resolve().parents[1]
# A server imports once what all tests need, never critjax itself, and every run is a fork of it.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["jax.numpy", "flax.nnx", "optax", "xarray", "jaxtyping", "beartype", "pytest"]
)
#: Added to pytest's exit status, so that a process that broke down is not taken for a failed test.
_RETURNED = 100
#: Times of modification, each used once.
_SECONDS = itertools.count(1_000_000_000)
ORACLE, DERIVATIVES, NESTED_TESTS, FOURIER, SPECTRA, LANDAU, DYNAMICS, RENORMALISED, FLUCTUATIONS, FREEZE = (
    f"tests/{name}.py"
    for name in (
        "test_patch_score_oracle",
        "test_patch_score_derivatives",
        "test_patch_score_nested",
        "test_fourier",
        "test_spectra_kernels",
        "test_landau_coefficients",
        "test_landau_dynamics",
        "test_landau_renormalised",
        "test_fluctuations",
        "test_freeze_out",
    )
)
STORE, RUNNER, FAULTS, COMMANDS = (f"tests/test_{name}.py" for name in ("store", "runner", "faults", "cli"))
PRODUCTS, SUMS, SCORES, PLAN, BLOCKS, PARTS, POSTERIOR, WINDOWS, SCHEDULE = (
    f"critjax/patch_score/_{name}.py"
    for name in (
        "products",
        "window_sums",
        "scores",
        "plan",
        "blocks",
        "parts",
        "posterior",
        "windows",
        "schedule",
    )
)
SOFTMAX = "critjax/patch_score/softmax.py"


class Mutation(NamedTuple):
    """One perturbation: in ``path`` the only occurrence of ``old`` becomes ``new``; ``tests`` must notice."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]  # a test file and an expression for pytest's -k


GUIDANCE, WINDOW = "tests/test_guidance.py", "tests/test_guidance_window.py"
AGREES = "test_agrees_with_the_oracle"
CLASSIFIER, CALIBRATION, FEATURES = (
    f"tests/{name}.py" for name in ("test_classifier", "test_calibration", "test_feature_measures")
)
MUTATIONS = [
    # The judge of samples
    Mutation(
        "temperature of the probabilities",
        "critjax/networks/_classifier.py",
        "jax.nn.softmax(logits / temperature",
        "jax.nn.softmax(logits * temperature",
        (CLASSIFIER, "features_and_probabilities_against_loops"),
    ),
    Mutation(
        "smoothed labels",
        "critjax/networks/_classifier_training.py",
        "config.num_classes), label_smoothing)",
        "config.num_classes), 0 * label_smoothing)",
        (CLASSIFIER, "loss_with_smoothed_labels"),
    ),
    Mutation(
        "corners of moved images",
        "critjax/networks/_classifier_training.py",
        "(count, 2), 0, 2 * shift + 1)",
        "(count, 2), 0, 2 * shift)",
        (CLASSIFIER, "augmentation_mirrors_moves"),
    ),
    Mutation(
        "bins of the calibration error",
        "critjax/networks/_calibration.py",
        "np.ceil(confidence * num_bins).astype(int) - 1",
        "np.floor(confidence * num_bins).astype(int)",
        (CALIBRATION, "lower_bin"),
    ),
    Mutation(
        "slope of the likelihood in 1/T",
        "critjax/networks/_calibration.py",
        "np.exp(_log_softmax(inverse * logits)) * logits",
        "np.exp(_log_softmax(logits / inverse)) * logits",
        (CALIBRATION, "temperature_is_found"),
    ),
    Mutation(
        "divisor, error of the diversity",
        "critjax/observables/features.py",
        "n / ((n - 1) * (n - 2))",
        "n / ((n - 1) * (n - 1))",
        (FEATURES, "feature_variance_against_loops"),
    ),
    Mutation(
        "second set, error of the Frechet distance",
        "critjax/observables/features.py",
        "jnp.sqrt(error_a**2 + error_b**2)",
        "jnp.sqrt(2 * error_a**2)",
        (FEATURES, "jackknife_written_out"),
    ),
    # Networks and what is measured on them
    Mutation(
        "offset of a column of the Jacobian",
        "critjax/studies/measure/instruments.py",
        "i_y, i_x = (row - offsets) % height, (column - offsets) % width",
        "i_y, i_x = (row + offsets) % height, (column + offsets) % width",
        ("tests/test_measure.py", "shift_has_its_kernel"),
    ),
    Mutation(
        "weight outside a window before anything cancels",
        "critjax/studies/measure/instruments.py",
        "jnp.abs(found).mean(0)",
        "jnp.abs(found.mean(0))",
        ("tests/test_measure.py", "what_cancels"),
    ),
    Mutation(
        "error of the mean Jacobian",
        "critjax/studies/measure/instruments.py",
        "values.std(0, ddof=1) / np.sqrt(len(values))",
        "values.std(0, ddof=1)",
        ("tests/test_measure.py", "dense_operator"),
    ),
    Mutation(
        "the same resamples at all levels",
        "critjax/studies/measure/run.py",
        "regression_and_resamples(x, denoised, keys[2])",
        "regression_and_resamples(x, denoised, jax.random.fold_in(keys[2], level))",
        ("tests/test_measure.py", "levels_err_together"),
    ),
    Mutation(
        "losses on the same images",
        "critjax/studies/compare/patches.py",
        "advantage.std(-1, ddof=1) / np.sqrt(count)",
        "np.hypot(rivals.std(-1, ddof=1), losses['network'].std(-1, ddof=1)) / np.sqrt(count)",
        ("tests/test_compare.py", "against_loops"),
    ),
    Mutation(
        "most significant level of a symbol",
        "critjax/studies/compare/findings.py",
        "score = (values - 1) / np.maximum(errors, 1e-12)",
        "score = values",
        ("tests/test_compare.py", "passes_touches"),
    ),
    Mutation(
        "what no patch model does, at the levels of a gain",
        "critjax/studies/compare/findings_patches.py",
        "where = differs & better",
        "where = differs",
        ("tests/test_compare.py", "patch_model_does"),
    ),
    Mutation(
        "sure difference of losses",
        "critjax/studies/compare/findings_patches.py",
        "advantage > SURE * error, advantage < -SURE * error",
        "advantage > 0, advantage < 0",
        ("tests/test_compare.py", "paired_errors"),
    ),
    Mutation(
        "weights of a trained network come last",
        "critjax/cli/_train.py",
        "    write_file(folder / LOG,",
        "    save_network(folder / WEIGHTS, config, result.params, info)\n    write_file(folder / LOG,",
        ("tests/test_networks.py", "written_last"),
    ),
    Mutation(
        "options without effect are refused",
        "critjax/cli/__init__.py",
        "options.keys() & settings.unused.keys()",
        "options.keys() & set()",
        ("tests/test_registry.py", "typo_is_told"),
    ),
    Mutation(
        "what came in as text goes out as text",
        "critjax/report/page.py",
        "autoescape=True",
        "autoescape=False",
        ("tests/test_page.py", "in_its_order or from_outside"),
    ),
    Mutation(
        "resolved settings have a type of their own",
        "critjax/studies/landau/settings.py",
        "self.filled(ResolvedLandau, **new)",
        "dataclasses.replace(self, **new)",
        ("tests/test_registry.py", "nothing_open and landau"),
    ),
    Mutation(
        "images asked for by the comparison",
        "critjax/studies/compare/problem.py",
        "load_dataset(data, num_images=wanted, classes=classes)",
        "load_dataset(data, classes=classes)",
        ("tests/test_compare.py", "whole_set"),
    ),
    Mutation(
        "centre of the closure's regression",
        "critjax/fluctuations/_closure.py",
        "regression_symbol(x, denoised, centre=centre, size=size)",
        "regression_symbol(x, denoised, centre='spatial', size=size)",
        ("tests/test_fluctuations.py", "picture_of_its_own"),
    ),
    Mutation(
        "blocks that a jackknife leaves out",
        "critjax/observables/errors.py",
        "np.flatnonzero(owner != i)",
        "np.flatnonzero(owner > i)",
        ("tests/test_observables.py", "lack_one_block"),
    ),
    Mutation(
        "strata of a jackknife",
        "critjax/observables/errors.py",
        "left_out - (total(left_out) / n)[strata]",
        "left_out - left_out.mean(axis=0)",
        ("tests/test_observables.py", "independent_strata"),
    ),
    Mutation(
        "fields that a resample draws",
        "critjax/observables/errors.py",
        "jax.random.randint(key, (num_resamples, num), 0, num)",
        "jax.random.randint(key, (num_resamples, num), 0, num - 1)",
        ("tests/test_observables.py", "bootstrap_values"),
    ),
    Mutation(
        "smallest gap of resampled fields",
        "critjax/studies/measure/ladder.py",
        "interior_minimum(jnp.log(ladder), 1 - symbols.mean(0))",
        "interior_minimum(jnp.log(ladder), 1 - symbols[0])",
        ("tests/test_measure.py", "smallest_gap_against"),
    ),
    Mutation(
        "jackknife over images",
        "critjax/observables/errors.py",
        "(len(left_out) - 1) ** 0.5 * xp.std(left_out, axis=0)",
        "xp.std(left_out, axis=0)",
        ("tests/test_compare.py", "against_loops"),
    ),
    Mutation(
        "rows and columns of a convolution's kernel",
        "critjax/networks/_convolution.py",
        "kernel.transpose(1, 2, 0, 3)",
        "kernel.transpose(0, 2, 1, 3)",
        ("tests/test_networks.py", "convolution_against_loops"),
    ),
    Mutation(
        "taps of a convolution at the edge, mirrored",
        "critjax/networks/_convolution.py",
        "(distance, -distance, 0)",
        "(-distance, distance, 0)",
        ("tests/test_networks.py", "convolution_against_loops"),
    ),
    Mutation(
        "what a batch shares, in turn",
        "critjax/patch_score/_turns.py",
        "next(rest) if b else a for a, b in zip(arguments",
        "a[0] if b else a for a, b in zip(arguments",
        (ORACLE, f"{AGREES} and all-periodic-centre and p3 and box"),
    ),
    Mutation(
        "sum over parts of a batch",
        "critjax/networks/_step.py",
        "lambda a: a * (part / count), jax",
        "lambda a: a, jax",
        ("tests/test_networks.py", "gradients_of_the_loss"),
    ),
    Mutation(
        "growth from the real part",
        "critjax/eigenmodes.py",
        'which="LR"',
        'which="SR"',
        ("tests/test_eigenmodes.py", "largest_real_part or nonsymmetric_against"),
    ),
    Mutation("schedule, edge", SCHEDULE, "sigma < jnp", "sigma <= jnp", (NESTED_TESTS, "edges_hold")),
    # Scores of patches
    Mutation(
        "prior weight, plain",
        SCORES,
        "jnp.where(kept, log_prior, lowest",
        "jnp.where(kept, 0.5 * log_prior, lowest",
        (ORACLE, f"{AGREES} and patches-periodic-centre and p3 and product"),
    ),
    Mutation(
        "prior weight, accurate",
        SCORES,
        "jnp.where(kept, log_prior, 0) * noise.sigma**2",
        "jnp.where(kept, log_prior, 0)",
        (ORACLE, "ties and patches and product"),
    ),
    Mutation(
        "excluded candidates, accurate",
        SCORES,
        "excluded = jnp.where(kept, jnp.zeros_like(log_prior), lowest(log_prior.dtype))",
        "excluded = jnp.zeros_like(log_prior)",
        (DERIVATIVES, "reverse_mode and patches and product"),
    ),
    Mutation(
        "sigma of plain scores",
        SCORES,
        "return (values / noise.sigma,)",
        "return (values / noise.sigma**2,)",
        (ORACLE, f"{AGREES} and patches-periodic-centre and p3 and product"),
    ),
    Mutation(
        "tail of the noisy image",
        SCORES,
        "dot(x_head, tail) + dot(x_tail, whole)",
        "dot(x_head, tail)",
        (ORACLE, "float32_on_noised_pictures"),
    ),
    Mutation(
        "tail of the candidates",
        SCORES,
        "dot(x_head, tail) + dot(x_tail, whole)",
        "dot(x_tail, whole)",
        (ORACLE, "float32_on_noised_pictures"),
    ),
    Mutation(
        "half squares, plain",
        SCORES,
        "Scores(-0.5 * jnp.sum(bank[0] ** 2, axis=axes))",
        "Scores(-jnp.sum(bank[0] ** 2, axis=axes))",
        (ORACLE, f"{AGREES} and patches-periodic-centre and p3 and product"),
    ),
    Mutation(
        "half squares, small part",
        SCORES,
        "jnp.sum(tail * (whole + head), axis=axes)",
        "jnp.sum(tail * whole, axis=axes)",
        (ORACLE, "float32_on_noised_pictures"),
    ),
    Mutation(
        "heads of too many bits",
        SCORES,
        "(jnp.finfo(dtype).nmant - 1 - math",
        "(2 * jnp.finfo(dtype).nmant - 1 - math",
        (ORACLE, "float32_on_noised_pictures"),
    ),
    Mutation(
        "plain where accurate is due",
        PLAN,
        '"product": 3e-3, "box": 5.5e-3',
        '"product": 0.0, "box": 0.0',
        (ORACLE, "float32_on_noised_pictures"),
    ),
    Mutation(
        "readout of patches",
        PRODUCTS,
        "middle = plan.size**2 // 2 * channels",
        "middle = (plan.size**2 // 2 - 1) * channels",
        (ORACLE, f"{AGREES} and patches-periodic-centre and p3 and product"),
    ),
    Mutation(
        "window offset, padding",
        WINDOWS,
        "widths[axis] = ((size - 1) // 2, size // 2)",
        "widths[axis] = (size // 2 - 1, (size - 1) // 2 + 1)",
        (ORACLE, f"{AGREES} and all-periodic-centre and p3 and product"),
    ),
    Mutation(
        "window offset, even windows",
        WINDOWS,
        "before = (size - 1) // 2",
        "before = size // 2",
        (ORACLE, f"{AGREES} and patches-periodic-average and p4"),
    ),
    Mutation(
        "rows that have counted",
        PRODUCTS,
        "fresh = first + jnp.arange(route.rows) >= begin",
        "fresh = first + jnp.arange(route.rows) >= 0",
        (ORACLE, f"{AGREES} and all-periodic-centre and p3 and product"),
    ),
    # Edges, and which training patches a pixel meets
    Mutation(
        "wrap at the edge",
        WINDOWS,
        'mode="wrap" if mode == "wrap" else "constant"',
        'mode="edge" if mode == "wrap" else "constant"',
        (ORACLE, f"{AGREES} and patches-periodic-centre and p3 and product"),
    ),
    Mutation(
        "contained windows",
        PLAN,
        'self.readout == "average" or self.part',
        "self.part",
        (ORACLE, f"{AGREES} and same-zero-average and p3"),
    ),
    Mutation(
        "interior rule, periodic",
        PLAN,
        'return "none" if self.positions == "interior" else self.query_pad',
        "return self.query_pad",
        (ORACLE, f"{AGREES} and interior-periodic-centre and p3 and product"),
    ),
    Mutation(
        "border rule",
        PLAN,
        "(index >= length - reach)",
        "(index > length - reach)",
        (ORACLE, f"{AGREES} and all-zero-centre and p3"),
    ),
    Mutation(
        "columns of a border row",
        PRODUCTS,
        "np.where(inside[:, None], inside, np.eye(length, dtype=bool))",
        "np.where(inside[:, None], True, np.eye(length, dtype=bool))",
        (ORACLE, f"{AGREES} and all-zero-centre and p3"),
    ),
    Mutation(
        "sum along a border row",
        PRODUCTS,
        "plan.size, (1, 2))",
        "plan.size, (1, 2)) * 0.5",
        (ORACLE, f"{AGREES} and all-zero-centre and p3"),
    ),
    Mutation(
        "border columns are turned back",
        PARTS,
        'add("columns", np.ix_(np.arange(height), columns), turned=True)',
        'add("rows", rows)',
        (ORACLE, f"{AGREES} and all-zero-centre and p3"),
    ),
    # Window sums
    Mutation(
        "squares at the same position",
        SUMS,
        "score(tail * (2 * head + tail))",
        "score(tail * (head + tail))",
        (ORACLE, f"{AGREES} and same-periodic-centre and p3"),
    ),
    Mutation(
        "channel sum, same position",
        SUMS,
        "jnp.sum(squares, axis=-1)",
        "jnp.mean(squares, axis=-1)",
        (ORACLE, f"{AGREES} and same-periodic-centre and p5"),
    ),
    Mutation(
        "what leaves the window",
        SUMS,
        "axis=1) for a in rows)",
        "axis=1) * 0.5 for a in rows)",
        (ORACLE, f"{AGREES} and all-periodic-centre and p3 and box"),
    ),
    Mutation(
        "half squares on the way",
        SUMS,
        "changes = [a[size:] - a[:-size]",
        "changes = [a[size:] + a[:-size]",
        (ORACLE, f"{AGREES} and all-periodic-centre and p3 and box"),
    ),
    Mutation(
        "rows that do not exist",
        SUMS,
        "jnp.where(beyond, lowest(strips.dtype), jnp.zeros_like(changes[0]))",
        "jnp.zeros_like(changes[0])",
        (ORACLE, "more_rows_than_one_segment"),
    ),
    Mutation(
        "strip under the last and the first row",
        SUMS,
        "strips[size - 1][None]",
        "strips[size - 2][None]",
        (ORACLE, f"{AGREES} and all-periodic-centre and p3 and box"),
    ),
    Mutation(
        "turning of the slots",
        SUMS,
        "jnp.roll(a, -1, axis=0)",
        "jnp.roll(a, 1, axis=0)",
        (ORACLE, f"{AGREES} and all-periodic-centre and p3 and box"),
    ),
    Mutation(
        "readout of a row",
        SUMS,
        "strips[row + size // 2, read]",
        "strips[row + size // 2 - 1, read]",
        (ORACLE, f"{AGREES} and all-periodic-centre and p3 and box"),
    ),
    Mutation(
        "cover count, average readout",
        WINDOWS,
        "return total / (size * size)",
        "return total / (size * size - 1)",
        (ORACLE, f"{AGREES} and patches-periodic-average and p3 and product"),
    ),
    # Streaming and derivatives
    Mutation(
        "running sum is not rescaled",
        POSTERIOR,
        "return _State(top, kept[..., None] * state.sums, tilt)",
        "return _State(top, state.sums, tilt)",
        (ORACLE, f"{AGREES} and patches-periodic-centre and p3 and product"),
    ),
    Mutation(
        "entropy under a new top",
        POSTERIOR,
        "kept * (state.tilt + log_kept * state.sums[..., 0])",
        "kept * state.tilt",
        (ORACLE, f"{AGREES} and patches-periodic-centre and p3 and product"),
    ),
    Mutation(
        "devices, sums not rescaled",
        SOFTMAX,
        "return new, _change(top, new, inverse)\n\n\ndef _change",
        "return new, 0 * _change(top, new, inverse)\n\n\ndef _change",
        ("tests/test_sharding.py", "sharded"),
    ),
    Mutation(
        "top without the small part",
        SOFTMAX,
        "- top.rest[..., None]",
        "- 0 * top.rest[..., None]",
        (ORACLE, "far_below_the_noise or noised_pictures"),
    ),
    Mutation(
        "what centring leaves",
        POSTERIOR,
        "sums[..., read] / total * change",
        "0 * change",
        (DERIVATIVES, "condensed"),
    ),
    Mutation(
        "least noise level",
        POSTERIOR,
        "jnp.maximum(sigma, jnp.sqrt(least))",
        "sigma",
        (DERIVATIVES, "condensed"),
    ),
    Mutation(
        "derivatives of distances, not centred",
        POSTERIOR,
        '-0.5 * (windows - mean) ** 2 if plan.positions == "same" else windows * mean',
        "windows * mean",
        (DERIVATIVES, "alike"),
    ),
    Mutation(
        "centring at the noise asked for",
        POSTERIOR,
        "problem.sigma, problem.largest).sigma",
        "problem.sigma, problem.largest).sigma * 0 + problem.sigma",
        (DERIVATIVES, "alike"),
    ),
    Mutation(
        "a mean that two uses round differently",
        POSTERIOR,
        "jnp.clip(state.sums[..., 1:] / total, -problem.largest, problem.largest)",
        "state.sums[..., 1:] / total",
        (DERIVATIVES, "alike"),
    ),
    Mutation(
        "origin of scores",
        PARTS,
        "jnp.round((low + high) / 2 / step) * step",
        "0 * step",
        (ORACLE, "origin"),
    ),
    Mutation(
        "overlap of the last block counts twice",
        BLOCKS,
        "jnp.where(first + jnp.arange(size) < start, -jnp.inf, log_prior)",
        "log_prior",
        (ORACLE, f"{AGREES} and patches-periodic-centre and p3 and product"),
    ),
    Mutation(
        "what is read out, relative to its mean",
        POSTERIOR,
        "deviation = values[..., None, :, channel] - mean[..., channel, None]",
        "deviation = values[..., None, :, channel] - 0 * mean[..., channel, None]",
        (DERIVATIVES, "condensed"),
    ),
    # Linear theory
    Mutation(
        "Fourier sign, symbol of a kernel",
        "critjax/fourier.py",
        'jnp.fft.ifft2(placed, axes=(0, 1), norm="forward")',
        "jnp.fft.fft2(placed, axes=(0, 1))",
        (FOURIER, "test_symbol_is_the_written_out_sum"),
    ),
    Mutation(
        "Fourier sign, as the spectra see it",
        "critjax/fourier.py",
        'jnp.fft.ifft2(placed, axes=(0, 1), norm="forward")',
        "jnp.fft.fft2(placed, axes=(0, 1))",
        (SPECTRA, "plane_waves_are_eigenvectors"),
    ),
    Mutation(
        "Fourier sign, kernel of a symbol",
        "critjax/fourier.py",
        'jnp.fft.fft2(symbol, axes=(0, 1), norm="forward")',
        "jnp.fft.ifft2(symbol, axes=(0, 1))",
        (FOURIER, "test_kernels_and_symbols_are_inverse"),
    ),
    Mutation(
        "Fourier sign, plane wave",
        "critjax/fourier.py",
        "jnp.exp(1j * k[1] *",
        "jnp.exp(-1j * k[1] *",
        (FOURIER, "plane_wave_is_exp"),
    ),
    Mutation(
        "kernel offset, symbol of a kernel",
        "critjax/fourier.py",
        "rows = (np.arange(p) - (p - 1) // 2) % height",
        "rows = (np.arange(p) - p // 2 + 1) % height",
        (FOURIER, "test_symbol_is_the_written_out_sum"),
    ),
    Mutation(
        "sigma, response kernel",
        "critjax/spectra/kernels.py",
        "variance = jnp.asarray(sigma).astype(working_dtype(bank)) ** 2",
        "variance = jnp.asarray(sigma).astype(working_dtype(bank))",
        (SPECTRA, "plane_waves_are_eigenvectors"),
    ),
    Mutation(
        "prior weight, moments",
        "critjax/spectra/posterior.py",
        "else block.log_prior - inverse",
        "else 0.5 * block.log_prior - inverse",
        (SPECTRA, "equals_its_extracted_patches"),
    ),
    Mutation(
        "window offset, features of images",
        "critjax/spectra/_blocks.py",
        "y[:, before : before + height,",
        "y[:, size - 1 : size - 1 + height,",
        (SPECTRA, "equals_its_extracted_patches"),
    ),
    Mutation(
        "wrap at the edge, moments",
        "critjax/spectra/_blocks.py",
        'mode="wrap")',
        'mode="edge")',
        (SPECTRA, "equals_its_extracted_patches"),
    ),
    Mutation(
        "interior rule, moments",
        "critjax/spectra/_blocks.py",
        'if bank.positions == "all":',
        'if bank.positions != "same":',
        (SPECTRA, "equals_its_extracted_patches"),
    ),
    Mutation(
        "channel sum, spread of windows",
        "critjax/spectra/_blocks.py",
        "mean, jnp.sum(spread, axis=0)",
        "mean, jnp.mean(spread, axis=0)",
        (SPECTRA, "equals_its_extracted_patches"),
    ),
    Mutation(
        "plane of ones, networks",
        "critjax/networks/_architectures.py",
        "jnp.ones_like(x[..., :1])",
        "jnp.zeros_like(x[..., :1])",
        ("tests/test_networks.py", "pixel_by_pixel"),
    ),
    Mutation(
        "norm before the convolution, networks",
        "critjax/networks/_blocks.py",
        "if self.norms == 2 else x",
        "if self.norms else x",
        ("tests/test_networks.py", "pixel_by_pixel"),
    ),
    Mutation(
        "conjugate, probes",
        "critjax/spectra/measured.py",
        "jnp.conj(z_hat)[..., None, None]",
        "z_hat[..., None, None]",
        ("tests/test_spectra_measured.py", "probes_are_exact"),
    ),
    Mutation(
        "mean over probes, patch models",
        "critjax/studies/compare/patches.py",
        "symbol = jnp.mean(jnp.stack(",
        "symbol = jnp.sum(jnp.stack(",
        ("tests/test_compare.py", "leading_symbol_of_all_channels"),
    ),
    Mutation(
        "lowest modes, k and -k",
        "critjax/studies/measure/instruments.py",
        "np.concatenate([columns, -columns])",
        "np.concatenate([columns, columns])",
        ("tests/test_compare.py", "free_of_noise"),
    ),
    Mutation(
        "gap and length of the mean over fields",
        "critjax/studies/measure/instruments.py",
        "gap_stiffness_length(some.mean(0))",
        "gap_stiffness_length(some[0])",
        ("tests/test_compare.py", "with_fields_left_out"),
    ),
    Mutation(
        "lowest modes of a measurement, with errors over fields",
        "critjax/studies/measure/instruments.py",
        "gap_stiffness_length(some.mean(0))",
        "gap_stiffness_length(symbols.mean(0))",
        ("tests/test_measure.py", "lowest_modes_are_exact"),
    ),
    Mutation(
        "labels of the later batches",
        "critjax/networks/_held_out.py",
        "labels[rows]",
        "labels[:size]",
        ("tests/test_training.py", "go_with_their_images"),
    ),
    Mutation(
        "loss of a network that is told the class",
        "critjax/cli/_train.py",
        "apply(config, result.params, x, s, y)",
        "apply(config, result.params, x, s)",
        ("tests/test_training.py", "told_the_class"),
    ),
    Mutation(
        "guidance of samples",
        "critjax/cli/_train.py",
        "guided(network_denoiser(config, params), denoise, constant(guidance))",
        "guided(denoise, network_denoiser(config, params), constant(guidance))",
        ("tests/test_training.py", "samples_are_those"),
    ),
    Mutation(
        "transpose, regression ratio",
        "critjax/spectra/regression.py",
        "return jnp.swapaxes(solved, -1, -2)",
        "return solved",
        ("tests/test_spectra_measured.py", "ratio_solves"),
    ),
    Mutation(
        "symbol function, an argument of the program",
        "critjax/spectra/critical.py",
        'return as_pytree("symbol_fn", symbol_fn), ladder',
        'return as_pytree("symbol_fn", lambda sigma: symbol_fn(sigma)), ladder',
        ("tests/test_programs_linear_theory.py", "critical_point"),
    ),
    Mutation(
        "probes pushed at once",
        "critjax/spectra/measured.py",
        "PROBES_TOGETHER = 8",
        "PROBES_TOGETHER = 1",
        ("tests/test_spectra_measured.py", "share_evaluations"),
    ),
    # Field theory
    Mutation(
        "fast modes only",
        "critjax/landau/_renormalised.py",
        "** 2, axis=-1) > squared_cutoff",
        "** 2, axis=-1) >= 0",
        (RENORMALISED, "two_patterns_among_white_noise"),
    ),
    Mutation(
        "third derivative, renormalised",
        "critjax/landau/_renormalised.py",
        "-third / 6",
        "-third / 2",
        (RENORMALISED, "without_fluctuations"),
    ),
    Mutation(
        "pixels around, transformed closure",
        "critjax/fluctuations/_two_pattern.py",
        "counts = [(1 + (a > 0))",
        "counts = [(1 + (a > 1))",
        (FLUCTUATIONS, "transformed_closure_against"),
    ),
    Mutation(
        "fourth cumulant, closure",
        "critjax/fluctuations/_closure.py",
        "gain = 4 * (1 + eta)",
        "gain = 2 * (1 + eta)",
        (FLUCTUATIONS, "kurtosis_of_the_closure"),
    ),
    Mutation(
        "fourth cumulant",
        "critjax/landau/_coefficients.py",
        "abbb - 3 * ab * bb",
        "abbb - 2 * ab * bb",
        (LANDAU, "two_patterns_have_closed_forms"),
    ),
    Mutation(
        "sigma, cubic coefficient",
        "critjax/landau/_coefficients.py",
        "-cumulants[1] / (6 * variance**3)",
        "-cumulants[1] / (6 * variance**2)",
        (LANDAU, "two_patterns_have_closed_forms"),
    ),
    Mutation(
        "modes with aliases",
        "critjax/landau/_dynamics.py",
        "np.abs(np.fft.fftfreq(n)) < 0.25",
        "np.abs(np.fft.fftfreq(n)) < 0.35",
        (DYNAMICS, "free_of_aliasing"),
    ),
    Mutation(
        "exponential step, second stage",
        "critjax/landau/_dynamics.py",
        "span * second * (after - before)",
        "span * first * (after - before)",
        (DYNAMICS, "second_order"),
    ),
    Mutation(
        "freeze-out, noise of a repeated step",
        "critjax/fluctuations/_freeze_out.py",
        "_transport(second.change, first.noise) + second.noise",
        "first.noise + second.noise",
        (FREEZE, "geometric_sum"),
    ),
    Mutation(
        "freeze-out, prefactor",
        "critjax/fluctuations/_freeze_out.py",
        "(2 * jnp.asarray(rate) / jnp.pi) ** 0.25",
        "(jnp.asarray(rate) / jnp.pi) ** 0.25",
        (FREEZE, "exponent_and_prefactor"),
    ),
    Mutation(
        "freeze-out, noise level of a Langevin step",
        "critjax/sampling.py",
        "amplitude = jnp.sqrt(2 * step_size) * sigma",
        "amplitude = jnp.sqrt(step_size) * sigma",
        (FREEZE, "ensemble_of_the_sampler or pure_langevin"),
    ),
    # Guidance
    Mutation(
        "guide, sign of a paired difference",
        "critjax/studies/guide/summary.py",
        'judged["response"].values - arm["response"].values',
        'arm["response"].values - judged["response"].values',
        ("tests/test_guide.py", "judged_schedules"),
    ),
    Mutation(
        "guide, one pulse for all images",
        "critjax/studies/guide/arms.py",
        "rng.integers(0, settings.num_positions,",
        "rng.integers(0, 1,",
        ("tests/test_guide.py", "random_positions"),
    ),
    Mutation(
        "guide, budget above the baseline",
        "critjax/studies/guide/arms.py",
        "budget, baseline=settings.baseline, solver",
        "budget, baseline=0.0, solver",
        ("tests/test_guide.py", "same_budget"),
    ),
    Mutation(
        "guide, small pushes under noise",
        "critjax/studies/guide/theory.py",
        "return (1 + eta) * jax.lax.map(level",
        "return jax.lax.map(level",
        ("tests/test_guide.py", "uncover_the_class"),
    ),
    Mutation(
        "guide, Jacobian of the expected image",
        "critjax/studies/guide/theory.py",
        "(dot(flat, push) - dot(free, push))",
        "(dot(flat, own) - dot(free, own))",
        ("tests/test_guide.py", "small_pushes_of_images and 1.0"),
    ),
    Mutation(
        "guide, what is left of the noise at the end",
        "critjax/studies/guide/theory.py",
        "left = (sigmas[-1] / sigma) ** (1 + eta)",
        "left = 0.0 * sigma",
        ("tests/test_guide.py", "small_pushes_of_images and 1.0"),
    ),
    Mutation(
        "guide, divergence of a push",
        "critjax/studies/guide/theory.py",
        "dot(own, own) - spread",
        "dot(own, own) - 0.5 * spread",
        ("tests/test_guide.py", "nothing_changes"),
    ),
    Mutation(
        "guide, phases of class modes in the closure",
        "critjax/studies/guide/theory.py",
        "shifts * modes.conj()",
        "shifts * modes",
        ("tests/test_guide.py", "mode_by_mode"),
    ),
    Mutation(
        "guide, real images that make up a distance",
        "critjax/studies/guide/summary.py",
        "references[order[:count]], references[order[count:]]",
        "references[order[: 2 * count]], references[order[count:]]",
        ("tests/test_guide.py", "distance_of_their_own"),
    ),
    Mutation(
        "guide, kinds of pixels of Gaussian patches",
        "critjax/studies/guide/gaussian.py",
        "(place >= reach) & (place < length - reach), reach, place",
        "(place >= 0) & (place < length), reach, place",
        ("tests/test_guide.py", "hold_the_whole_image"),
    ),
    Mutation(
        "guide, step of Gaussian patches",
        "critjax/studies/guide/gaussian.py",
        "kept = jumps[n - 1].T @ kept",
        "kept = jumps[n - 1] @ kept",
        ("tests/test_guide.py", "steps_written_out"),
    ),
    Mutation(
        "guide, push of Gaussian classes",
        "critjax/studies/guide/gaussian.py",
        "rest = sigmas[:, None] ** 2 /",
        "rest = np.maximum(size, 0) /",
        ("tests/test_guide.py", "one_dimension"),
    ),
    Mutation(
        "guidance, which branch a weight of zero skips",
        "critjax/guidance/_weights.py",
        'part("conditional", weight == 0)',
        'part("conditional", weight < 0)',
        (GUIDANCE, "does_no_harm or not_evaluated"),
    ),
    Mutation(
        "guidance, edges of a pulse",
        "critjax/noise/_units.py",
        "(sigma > low * (1 + EDGE_TOLERANCE))",
        "(sigma >= low * (1 - EDGE_TOLERANCE))",
        (GUIDANCE, "are_their_formulas or of_a_window_are_those"),
    ),
    Mutation(
        "guidance, level of a table",
        "critjax/guidance/_weights.py",
        "jnp.abs(levels - jnp.log(as_level(sigma)))",
        "jnp.abs(jnp.exp(levels) - as_level(sigma))",
        (GUIDANCE, "nearest_between"),
    ),
    Mutation(
        "guidance, length of a node",
        "critjax/guidance/_budget.py",
        "(sigmas[:-1] - sigmas[1:]) / sigmas[1:]",
        "(sigmas[:-1] - sigmas[1:]) / sigmas[:-1]",
        (GUIDANCE, "are_the_steps"),
    ),
    Mutation(
        "guidance, budget above the baseline",
        "critjax/guidance/_budget.py",
        "baseline + factor * (weight - baseline)",
        "factor * weight",
        (GUIDANCE, "same_budget or stay_there"),
    ),
    Mutation(
        "guidance, last step of a window",
        "critjax/guidance/_units.py",
        "sigmas[int(last) + 1]",
        "sigmas[int(last)]",
        (GUIDANCE, "of_a_window_are_those"),
    ),
    Mutation(
        "guidance, susceptibility per unit of tau",
        "critjax/guidance/_susceptibility.py",
        "slope / jnp.where(carried, nodes, 1)",
        "slope",
        ("tests/test_susceptibility.py", "product_of_step_factors"),
    ),
    Mutation(
        "guidance, linear response from the end",
        "critjax/guidance/_susceptibility.py",
        "jnp.flip(jnp.cumsum(jnp.flip(pieces, 0), axis=0), 0)",
        "jnp.cumsum(pieces, axis=0)",
        ("tests/test_susceptibility.py", "travelling or linear_theory"),
    ),
    Mutation(
        "guidance, memory of the reverse pass",
        "critjax/sampling.py",
        "    if save_every > 1:\n        block = jax.checkpoint(block)",
        "    if save_every < 1:\n        block = jax.checkpoint(block)",
        ("tests/test_susceptibility.py", "memory"),
    ),
    Mutation(
        "guidance, a schedule begins too late",
        "critjax/studies/guide/arms.py",
        "int(np.argmax(changed)) if",
        "int(np.argmax(changed)) + 1 if",
        ("tests/test_guide.py", "whole_runs"),
    ),
    Mutation(
        "sampler, noise of the rest of a run",
        "critjax/sampling.py",
        "jax.random.fold_in(noise_key, index)",
        "jax.random.fold_in(noise_key, index - first_step)",
        ("tests/test_sampling.py", "goes_on"),
    ),
    Mutation(
        "sampler, mean of both drifts",
        "critjax/sampling.py",
        "width * total / (number + 1)",
        "width * total",
        ("tests/test_sampling.py", "heun_averages or goes_on"),
    ),
    Mutation(
        "sampler, kick of the predictor",
        "critjax/sampling.py",
        "(number + 1) + kick, total)",
        "(number + 1) + jnp.where(number + 1 == num_stages, kick, 0), total)",
        ("tests/test_sampling.py", "same_kick"),
    ),
    Mutation(
        "guidance, root of the softening",
        "critjax/guidance/_window.py",
        "jnp.log(jnp.maximum(softening, 0)) / 2",
        "jnp.log(jnp.maximum(softening, 0))",
        (WINDOW, "critical_noise"),
    ),
    Mutation(
        "guidance, a push decays more slowly with eta",
        "critjax/guidance/_window.py",
        "+ rate * decay",
        "+ decay",
        (WINDOW, "critical_noise or test_gaussian_data"),
    ),
    Mutation(
        "guidance, sign of the decay of a push",
        "critjax/guidance/_window.py",
        "steps = log_sigma[:-1] - log_sigma[1:]",
        "steps = log_sigma[1:] - log_sigma[:-1]",
        (WINDOW, "test_gaussian_data"),
    ),
    Mutation(
        "guidance, level at the edges of a window",
        "critjax/guidance/_window.py",
        "_KEPT = 0.75",
        "_KEPT = 0.74",
        (WINDOW, "test_gaussian_data"),
    ),
    Mutation(
        "guidance, vertex of the response",
        "critjax/guidance/_window.py",
        "jnp.where(at_end, log_sigma[highest], vertex)",
        "log_sigma[highest]",
        (WINDOW, "second_order"),
    ),
    Mutation(
        "guidance, a response of nothing",
        "critjax/guidance/_window.py",
        "jnp.where(largest == -jnp.inf, 0, largest)",
        "largest",
        (WINDOW, "never_responds"),
    ),
    Mutation(
        "guidance, bootstrap of whole trajectories",
        "critjax/guidance/_window.py",
        "softenings[draw]",
        "softenings[(draw[:, None] + jnp.arange(mean.size)) % count, jnp.arange(mean.size)]",
        (WINDOW, "spread_of_independent"),
    ),
    Mutation(
        "guidance, standard error of a gap",
        "critjax/guidance/_window.py",
        "/ np.sqrt(count)",
        "/ count",
        (WINDOW, "spread_of_independent"),
    ),
    Mutation(
        "guidance, width of the interval of a centre",
        "critjax/guidance/_window.py",
        "(ends[1] - ends[0] > np.log(_WIDEST))",
        "(ends[1] - ends[0] > 2 * np.log(_WIDEST))",
        (WINDOW, "factor_four"),
    ),
    Mutation(
        "guidance, low end of the interval of a centre",
        "critjax/guidance/_window.py",
        "| (ends[0] <= log_sigma[-1])",
        "| (ends[0] < log_sigma[-1])",
        (WINDOW, "reaches_an_end"),
    ),
    Mutation(
        "store, damaged parts",
        "critjax/store.py",
        'check(found.pop("digest", None) == digest(content), "part"',
        'check(found.pop("digest", None) is not None, "part"',
        (STORE, "flipped_bit"),
    ),
    Mutation(
        "store, parts of others",
        "critjax/store.py",
        'check(not differing, "part"',
        'check(True, "part"',
        (STORE, "belongs_to_others"),
    ),
    Mutation(
        "store, a file written in place",
        "critjax/store.py",
        "handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.suffix, dir=path.parent)",
        'handle, temporary = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), path.with_suffix(".new")',
        (STORE, "whatever_fails"),
    ),
    Mutation(
        "store, files of the dead",
        "critjax/store.py",
        "path.unlink(missing_ok=True)",
        "path.exists()",
        (STORE, "once_its_run_is_dead"),
    ),
    Mutation(
        "store, two runs in a folder",
        "critjax/store.py",
        "lock.acquire(timeout=0)",
        "lock.lock_file",
        (STORE, "once_its_run_is_dead"),
    ),
    Mutation(
        "studies, parts of another run",
        "critjax/studies/_engine/storage.py",
        "if says(path, run=run)]",
        "if says(path)]",
        (RUNNER, "other_settings"),
    ),
    Mutation(
        "sweeps, a batch of another place",
        "critjax/sweeps.py",
        "unseal(path.read_bytes(), sweep=self.sweep, number=number)",
        "path.read_bytes().partition(b'\\n')[2]",
        (FAULTS, "bits_of_a_sweep"),
    ),
    Mutation(
        "cli, a second signal",
        "critjax/cli/_signals.py",
        "if seen == 2:",
        "if seen == 3:",
        (COMMANDS, "second_everything"),
    ),
    Mutation(
        "networks, weights with a flipped bit",
        "critjax/networks/_weights.py",
        "told is not None and told != _digest(arrays, header)",
        "told is not None and told == ''",
        (FAULTS, "bits_of_weights"),
    ),
    Mutation(
        "networks, the checkpoint before",
        "critjax/networks/_checkpoints.py",
        "    if (folder / CHECKPOINT).exists():",
        "    if (folder / CHECKPOINT).is_symlink():",
        ("tests/test_training.py", "stands_in_for"),
    ),
]


def _in_child(copy: Path, tests: tuple[str, ...], output: Path, slow: bool) -> None:
    """Run pytest in this fresh process, write what it prints, exit with its status; ``slow`` tests if others pass."""
    path, expression = tests
    with output.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(copy)
    sys.dont_write_bytecode = False  # compile the copy once, not in every run
    # The copy comes first on the path, before any installed critjax; tests may start processes of their own.
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)
    # A failure is enough: hypothesis need not look for its smallest example.
    hypothesis.settings.register_profile("any failure", phases=[Phase.explicit, Phase.generate])
    hypothesis.settings.load_profile("any failure")
    arguments = [path, "-k", expression, "-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider"]
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-m"]
    status = pytest.main([*arguments, "not slow and not nightly"])
    none = pytest.ExitCode.NO_TESTS_COLLECTED
    if status == none or (slow and status == pytest.ExitCode.OK):  # some mistakes only a slow test can notice
        other = pytest.main([*arguments, "slow"])
        status = status if other == none else other
    sys.exit(_RETURNED + int(status))


def run_tests(copy: Path, tests: tuple[str, ...], timeout: float, *, slow: bool = True) -> tuple[int, str]:
    """Run tests against the package in ``copy``; return pytest's exit status and the end of its output."""
    with tempfile.TemporaryDirectory(prefix="critjax-mutant-output-") as folder:
        output = Path(folder) / "output"
        child = _SERVER.Process(target=_in_child, args=(copy, tests, output, slow))
        child.start()
        child.join(timeout)
        if child.exitcode is None:
            child.kill()
            child.join()
            return -1, f"no result within {timeout:.0f} s"
        printed = output.read_text(encoding="utf-8") if output.exists() else ""
        return child.exitcode - _RETURNED, "\n".join(printed.strip().splitlines()[-5:])


def one_each(mutations: list[Mutation]) -> list[Mutation]:
    """Keep the first mutation of every package or module of critjax."""
    return list({mutation.path.split("/")[1]: mutation for mutation in reversed(mutations)}.values())[::-1]


def judge(mutation: Mutation, copy: Path, timeout: float) -> tuple[str, str]:
    """Apply one mutation to the copy, run its tests, undo it; return a verdict and an explanation."""
    target = copy / mutation.path
    original, times = target.read_text(encoding="utf-8"), target.stat()
    occurrences = original.count(mutation.old)
    if occurrences != 1:
        return "NO MATCH", f"text occurs {occurrences} times in {mutation.path}"
    target.write_text(original.replace(mutation.old, mutation.new), encoding="utf-8")
    # Python takes bytecode for current if the source's second and length agree: no two versions share a second.
    os.utime(target, (times.st_atime, next(_SECONDS)))
    try:
        status, output = run_tests(copy, mutation.tests, timeout)
    finally:
        target.write_text(original, encoding="utf-8")
        os.utime(target, (times.st_atime, times.st_mtime))
    if status == 1:
        return "noticed", ""
    return ("SURVIVED", "") if status == 0 else ("BROKEN RUN", output)


def make_copy(folder: Path) -> Path:
    """Copy what the tests need."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("critjax", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the mutations, print a table."""
    parser = argparse.ArgumentParser(description="Break the library on purpose and see whether tests notice.")
    parser.add_argument("names", nargs="*", help="parts of mutation names; default all")
    parser.add_argument("--one-each", action="store_true", help="the first one of every package alone")
    parser.add_argument("--list", action="store_true", help="list the mutations and stop")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for each run of tests")
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTATIONS if not options.names or any(name in m.name for name in options.names)]
    if not chosen:
        parser.error(f"names: expected part of a mutation's name, got {options.names}; see --list")
    chosen = one_each(chosen) if options.one_each else chosen
    width = max(len(m.name) for m in chosen)
    if options.list:
        for mutation in chosen:
            print(f"{mutation.name:<{width}}  {mutation.path}")
        return 0
    good = True
    with tempfile.TemporaryDirectory(prefix="critjax-mutants-") as folder:
        copy = make_copy(Path(folder))
        print(f"{'mutation':<{width}}  {'seconds':>7}  verdict")
        # Unperturbed, the same tests must pass: a test that always fails notices nothing.
        for path in dict.fromkeys(m.tests[0] for m in chosen):
            expressions = dict.fromkeys(f"({m.tests[1]})" for m in chosen if m.tests[0] == path)
            start = time.perf_counter()
            status, output = run_tests(copy, (path, " or ".join(expressions)), options.timeout, slow=False)
            print(f"{path:<{width}}  {time.perf_counter() - start:7.1f}  unperturbed", flush=True)
            if status != 0:
                good = False
                print(f"{path} fails without any mutation\n{output}", flush=True)
        for mutation in chosen:
            start = time.perf_counter()
            verdict, explanation = judge(mutation, copy, options.timeout)
            good = good and verdict == "noticed"
            seconds = time.perf_counter() - start
            print(f"{mutation.name:<{width}}  {seconds:7.1f}  {verdict}  {explanation}".rstrip(), flush=True)
    print("every mutant was noticed" if good else "NOT every mutant was noticed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
