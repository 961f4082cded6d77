"""Distribution hecate-optimizers; what it registers stands in plugin.py."""
