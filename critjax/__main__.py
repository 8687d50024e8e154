"""Run the command line as ``python -m critjax``."""

from critjax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
