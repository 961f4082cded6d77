"""Distribution hecate-compositions; what it registers stands in plugin.py."""
