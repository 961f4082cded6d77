"""Faults planted into the sources of every pair, a module per op, each with `PLANTED`."""
