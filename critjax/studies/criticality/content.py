"""What the page of a criticality study says."""

from __future__ import annotations

import xarray as xr

from critjax.report.page import UNITS, Content, labels
from critjax.studies._engine.results import stored_values
from critjax.studies.criticality.findings import findings
from critjax.studies.criticality.table import table


def content(dataset: xr.Dataset) -> Content:
    """Collect sentences and table of a criticality study."""
    settings = stored_values(dataset)
    return Content(
        f"{dataset.attrs.get('bank_description', '')}; {settings.get('num_samples')} samples, "
        f"{dataset.sizes.get('sigma', 0)} noise levels, eta = {settings.get('eta', 0.0):g}, "
        f"{settings.get('precision')}",
        findings(dataset),
        2,
        table(dataset),
        "Errors are one standard error: over batches of samples (jackknife); of the mean Jacobian, its smallest gap "
        f"and the effective number of patches over fields; of the closure over its replicas. {UNITS}",
        labels(dataset),
    )
