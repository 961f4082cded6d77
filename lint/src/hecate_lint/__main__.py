"""`python -m hecate_lint`."""

from hecate_lint.cli import entry

entry()
