"""`python -m hecate_core.cli`: the console script without its file."""

from hecate_core.cli.main import entry

entry()
