"""`python -m hecate_core.cli` is `hecate`."""

from hecate_core.cli.main import entry

entry()
