"""Distribution hecate-hope; what it registers stands in plugin.py."""
