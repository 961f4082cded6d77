"""Distribution hecate-linear; what it registers stands in plugin.py."""
