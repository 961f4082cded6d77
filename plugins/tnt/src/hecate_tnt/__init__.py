"""Distribution hecate-tnt; what it registers stands in plugin.py."""
