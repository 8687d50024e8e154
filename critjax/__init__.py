"""critjax: when and how structure appears while a diffusion model generates an image."""

__version__ = "0.1.0"
