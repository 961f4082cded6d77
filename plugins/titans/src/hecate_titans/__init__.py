"""Distribution hecate-titans; what it registers stands in plugin.py."""
