"""Small random patch-score problems for the oracle and derivative tests, one list for every legal row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest
import reference

from critjax.banks import ImageBank, PatchBank
from critjax.patch_score import available_methods, effective_patches, patch_denoiser

#: (kind, positions, boundary, readout): written down here by hand, so that it can disagree with the library.
LEGAL = [
    ("patches", None, "periodic", "centre"),
    ("patches", None, "periodic", "average"),
    ("images", "all", "periodic", "centre"),
    ("images", "all", "periodic", "average"),
    ("images", "all", "zero", "centre"),
    ("images", "interior", "periodic", "centre"),
    ("images", "interior", "periodic", "average"),
    ("images", "same", "periodic", "centre"),
    ("images", "same", "periodic", "average"),
    ("images", "same", "zero", "centre"),
    ("images", "same", "zero", "average"),
]
ROWS = [
    (kind, positions, boundary, readout)
    for kind, all_positions in (("patches", (None,)), ("images", ("all", "interior", "same")))
    for positions in all_positions
    for boundary in ("periodic", "zero")
    for readout in ("centre", "average")
]


class Case(NamedTuple):
    """One problem: a bank written as plain numpy and the model's options."""

    kind: str
    positions: str | None
    boundary: str
    readout: str
    size: int = 3
    grid: tuple[int, int] = (7, 5)  # of the noisy image
    channels: int = 1
    count: int = 4  # patches or images
    image_grid: tuple[int, int] | None = None  # of the training images where it differs from ``grid``
    prior: str = "random"  # "uniform", "random" or "excluded" (random with one entry -inf)

    @property
    def row(self):
        return self[:4]

    @property
    def id(self):
        where = f"-{self.positions}" if self.positions else ""
        shape = "x".join(map(str, (*self.grid, self.channels)))
        other = "-other" if self.image_grid else ""
        return f"{self.kind}{where}-{self.boundary}-{self.readout}-p{self.size}-{shape}-{self.prior}{other}"

    @property
    def model(self):
        return {"boundary": self.boundary, "readout": self.readout}

    @property
    def oracle_options(self):
        return {"size": self.size, "positions": self.positions, **self.model}

    def arrays(self, seed: int = 0, dtype=np.float64):
        """Return noisy image, bank data and log prior."""
        rng = np.random.default_rng([seed, self.size, *self.grid, self.channels, self.count])
        if self.kind == "patches":
            shape = (self.count, self.size, self.size, self.channels)
        else:
            shape = (self.count, *(self.image_grid or self.grid), self.channels)
        data = rng.uniform(-1, 1, shape).astype(dtype)
        x = rng.normal(0, 0.8, (*self.grid, self.channels)).astype(dtype)
        log_prior = rng.normal(0, 1, self.count).astype(dtype)
        if self.prior == "uniform":
            log_prior = np.full(self.count, -np.log(self.count)).astype(dtype)
        if self.prior == "excluded":
            log_prior[self.count // 2] = -np.inf
        return x, data, log_prior

    def bank(self, data, log_prior=None, labels=None):
        if self.kind == "patches":
            return PatchBank(data, log_prior, labels)
        return ImageBank(data, self.size, positions=self.positions, log_prior=log_prior, labels=labels)

    def sigma(self, fraction: float = 0.5) -> float:
        """Noise level at which several candidates compete."""
        return fraction * float(np.sqrt(self.size**2 * self.channels)) ** 0.5

    def reference(self, x, sigma, data, log_prior=None, **more):
        return reference.denoise(x, sigma, data, log_prior, **self.oracle_options, **more)


def base_cases() -> list[Case]:
    """One case per legal row. Most tests use these shapes, so that they share compiled programs."""
    return [Case(*row) for row in LEGAL]


def agreement_cases() -> list[Case]:
    """Colour, other unequal sides, p = min(H, W), even windows; beside `base_cases`."""
    cases = []
    for row in LEGAL:
        if row[3] == "centre":
            cases += [Case(*row, 5, (5, 8), 3, prior="uniform")]
        else:
            cases += [Case(*row, 4, (4, 6), 3, prior="uniform")]
    return cases


def methods_of(case: Case) -> tuple[str, ...]:
    """Ask the library which evaluation routes this row has."""
    _, data, log_prior = case.arrays()
    return available_methods(case.bank(data, log_prior), **case.model)


def with_methods(cases: list[Case], slow: Callable[..., bool] = lambda *_: False) -> list:
    """Return (case, method) pairs for `pytest.mark.parametrize`; those of which ``slow`` is true are slow."""
    return _marked([(case, method) for case in cases for method in methods_of(case)], slow)


def _marked(rows: list[tuple], slow: Callable[..., bool]) -> list:
    return [
        pytest.param(*row, id="-".join((row[0].id, *row[1:])), marks=pytest.mark.slow if slow(*row) else ())
        for row in rows
    ]


def case_id(case: Case) -> str:
    return case.id


def budget(case: Case, rows: int = 3, dtype=np.float64) -> int:
    """Return what blocks of three patches may take, or of ``rows`` rows of windows of one training image."""
    candidates = 3 if case.kind == "patches" else rows * (case.image_grid or case.grid)[1]
    numbers = case.size**2 * case.channels
    if case.positions == "same":
        candidates, numbers = 3, numbers * case.grid[0] * case.grid[1]
    return candidates * np.dtype(dtype).itemsize * (4 * case.grid[0] * case.grid[1] + 3 * numbers)


#: Problems of one shape that `evaluate` puts through one program.
BATCH = 8


def _both(denoise, count, x, sigma):
    return denoise(x, sigma), count(x, sigma)


_one = jax.jit(_both)
_batch = jax.jit(jax.vmap(_both))


def _built(bank, case, method, memory_budget):
    options = {**case.model, "method": method, "memory_budget": memory_budget}
    return patch_denoiser(bank, **options), effective_patches(bank, **options)


def evaluate_one(case, bank, x, sigma, method="auto", *, memory_budget=None):
    """Return (denoised, effective): one program a variant, route and shape."""
    return _one(*_built(bank, case, method, memory_budget), x, sigma)


def evaluate(case, problems, method="auto", *, rows=3):
    """Return [(denoised, effective)] of (x, sigma, data, log_prior), up to `BATCH`, by one program a variant and route.

    Images, noise levels and banks are mapped over; each bank is visited in blocks, the last of which overlaps.
    """
    padded = [problems[min(i, len(problems) - 1)] for i in range(BATCH)]
    xs, sigmas, data, log_priors = (np.stack([np.asarray(p[i]) for p in padded]) for i in range(4))
    memory = budget(case, rows, xs.dtype)
    built = _built(case.bank(data[0], log_priors[0]), case, method, memory)
    stacked = [jax.tree.unflatten(jax.tree.structure(fn), [data, log_priors]) for fn in built]
    found = jax.tree.map(np.asarray, _batch(*stacked, xs, sigmas.astype(xs.dtype)))
    return [(found[0][i], found[1][i]) for i in range(len(problems))]


def optimised_denoiser(boundary: str, readout: str, method="auto"):
    """Return ``(bank, x, sigma) -> denoised``, compiled as users compile it."""

    def denoise(bank, x, sigma):
        return patch_denoiser(bank, boundary=boundary, readout=readout, method=method)(x, sigma)

    return denoise
