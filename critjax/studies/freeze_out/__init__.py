"""The freeze-out study: how the length of a field depends on the rate at which its noise is lowered."""

from typing import Any

from critjax.studies._engine.study import Study
from critjax.studies.freeze_out.figures import figures
from critjax.studies.freeze_out.findings import content
from critjax.studies.freeze_out.run import ISING_BINDER, FreezeOutSettings, estimate_cost, run

__all__ = ["ISING_BINDER", "STUDY", "FreezeOutSettings", "estimate_cost", "run", "settings_of"]


def _describe(full: Any) -> list[tuple[str, str]]:
    """Tell what a run would do, from resolved settings."""
    return [
        ("quenches", f"n = {', '.join(map(str, full.steps_per_tau))}, {full.grid} x {full.grid}"),
        ("grids", ", ".join(map(str, full.binder_grids)) or "none"),
    ]


STUDY = Study(
    name="freeze-out",
    settings=FreezeOutSettings,
    run=run,
    figures=figures,
    content=content,
    estimate_cost=estimate_cost,
    describe=_describe,
    folder="freeze-out-SIZE",
    parts="quenches and grids",
    extra="",
    description="""\
Lower the noise of a field at rates over decades, and see which length it is left with.

For the two-pattern bank the command
  1. predicts: the length at the bare critical noise, linear theory and Gaussian closure along the same ladders;
  2. quenches: annealed Langevin dynamics with n steps per e-fold of sigma, for every n;
  3. measures: lengths of raw, sign and denoised fields, wall density, their powers of n with errors;
  4. finds the transition that samples do have: the Binder cumulant on grids of several sizes;
  5. reports: a table here; report.html, figures/*.png and results.nc in the output folder.
""",
    examples="""\
examples:
  critjax freeze-out                         p = 3, 64 x 64, n = 10 ... 10,000, three grids (some minutes)
  critjax freeze-out --quick                 the same, small
""",
)
settings_of = STUDY.settings_of
