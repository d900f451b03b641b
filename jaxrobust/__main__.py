"""`python -m jaxrobust` is the command `jaxrobust`."""

from jaxrobust.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
