"""Building blocks of figures: one style, what figures of the noise axis share, and kinds of figures.

Theory is drawn as lines, measurement as points with error bars, critical points are marked. Colours are from
the set of Okabe and Ito and never stand alone: line style, marker or a direct label says the same. The noise
axis runs from high to low noise, the way generation does. Nothing here touches pyplot's global state, and nothing
knows of a study: each keeps its figures in its own folder.
"""

from critjax.plotting.style import FigureKind, available, own_style, styled

__all__ = ["FigureKind", "available", "own_style", "styled"]
