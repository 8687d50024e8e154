"""The Landau study: the exact dynamics of a bank beside its Ginzburg-Landau reduction, from the same noise."""

from typing import Any

from critjax.studies._engine.study import Study
from critjax.studies.landau.figures import figures
from critjax.studies.landau.findings import content
from critjax.studies.landau.run import COMPARISONS, TOLERANCES, LandauSettings, estimate_cost, holds_to, run

__all__ = [
    "COMPARISONS",
    "STUDY",
    "TOLERANCES",
    "LandauSettings",
    "estimate_cost",
    "holds_to",
    "run",
    "settings_of",
]


def _describe(full: Any) -> list[tuple[str, str]]:
    """Tell what a run would do, from resolved settings."""
    return [
        ("banks", f"{', '.join(full.banks)}, p = {full.size}"),
        ("samples", f"{full.num_samples} a bank, {full.num_levels} noise levels"),
    ]


STUDY = Study(
    name="landau",
    settings=LandauSettings,
    run=run,
    figures=figures,
    content=content,
    estimate_cost=estimate_cost,
    describe=_describe,
    folder="landau-BANKS",
    parts="banks",
    extra="",
    description="""\
Run exact dynamics and reduced Ginzburg-Landau equation side by side, from the same noise.

For each bank the command
  1. computes r, K, u, ... at every noise level: bare, and renormalised by the fast modes that the equation omits;
  2. runs the exact model and the reduced equation, and a second exact run that starts without fast modes;
  3. compares their slow modes: errors, overlaps, structure factors, and the noise down to which 5 and 20 % hold;
  4. relaxes ordered states at frozen noise: plateau against -r/u, wall width against sqrt(2K/-r);
  5. reports: a table here; report.html, figures/*.png and results.nc in the output folder.
""",
    examples="""\
examples:
  critjax landau                             the three pattern banks, 64 x 64, 32 samples each (two to three minutes)
  critjax landau --quick                     the same, small
  critjax landau --bank two-pattern --eta 1  one bank under the reverse SDE, exact and reduced with the same noise
""",
)
settings_of = STUDY.settings_of
