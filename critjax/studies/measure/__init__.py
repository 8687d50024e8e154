"""Any denoiser measured with the instruments of the theory: symbols, kernels, gaps, lengths, critical noises."""

from critjax.studies.measure.run import ENSEMBLES, SIGMAS, measure

__all__ = ["ENSEMBLES", "SIGMAS", "measure"]
