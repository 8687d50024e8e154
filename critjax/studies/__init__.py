"""Studies: each joins primitives into one experiment and returns a labelled `xarray.Dataset`.

A study is a function of one settings object; nothing below this package knows of it, and nothing is imported
until a study module is asked for: ``from critjax.studies import criticality``.
"""
