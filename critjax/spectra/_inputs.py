"""Scalars on their way into a program: checked on the host, of one type whatever the caller passed."""

from __future__ import annotations

from typing import Any

from critjax._checks import check_eta, is_concrete
from critjax.closed_form._inputs import check_sigma


def as_sigma(sigma: Any) -> Any:
    """Return a noise level that passes `check_sigma` as a Python float, or a tracer as it is."""
    check_sigma(sigma)
    return float(sigma) if is_concrete(sigma) else sigma


def as_eta(eta: Any) -> Any:
    """Return a stochasticity that passes `check_eta` as a Python float, or a tracer as it is."""
    check_eta(eta)
    return float(eta) if is_concrete(eta) else eta
