"""The result table of a report: quantity, theory, measured, error."""

from __future__ import annotations

import math
from typing import NamedTuple

from critjax.observables.errors import Estimate
from critjax.report.numbers import in_units, plain, text, with_error


class Row(NamedTuple):
    """One line of the table, ready to print."""

    quantity: str
    theory: str
    measured: str
    error: str
    note: str = ""


def table_row(quantity: str, theory: float | Estimate, measured: Estimate, note: str = "") -> Row:
    """Write one line; a theory that is itself sampled, like the closure, comes with its own error.

    Example
    -------
    >>> table_row("critical noise", 9.0, Estimate(4.02, 0.03))
    Row(quantity='critical noise', theory='9.000', measured='4.02', error='0.03', note='')
    """
    value, error = with_error(measured)
    expected = theory if isinstance(theory, Estimate) else Estimate(theory)
    sampled = expected.known and math.isfinite(expected.error) and expected.error > 0
    return Row(quantity, text(expected) if sampled else plain(expected.value, 4), value, error, note)


def noise_rows(quantity: str, theory: float | Estimate, measured: Estimate, note: str = "") -> list[Row]:
    """Write one critical noise: sigma, then the same in the units of other conventions."""
    rows = [table_row(quantity, theory, measured, note)]
    predicted = in_units(theory if isinstance(theory, Estimate) else Estimate(theory))
    found = in_units(measured)
    return rows + [table_row(f"   as {unit}", predicted[unit], found[unit]) for unit in predicted]


def format_table(rows: list[Row]) -> str:
    """Lay the rows out as aligned text.

    Example
    -------
    >>> print(format_table([Row("k_c", "0", "0.1", "0.2")]))
    quantity  theory  measured  error
    --------  ------  --------  -----
    k_c            0       0.1    0.2
    """
    header = Row("quantity", "theory", "measured", "error")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(4)]
    rule = Row(*("-" * width for width in widths))
    lines = []
    for row in [header, rule, *rows]:
        cells = [row[0].ljust(widths[0])] + [row[i].rjust(widths[i]) for i in range(1, 4)]
        lines.append("  ".join(cells) + (f"   {row.note}" if row.note else ""))
    return "\n".join(lines)
