"""Distribution hecate-trellis; what it registers stands in plugin.py."""
