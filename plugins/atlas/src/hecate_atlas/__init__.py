"""Distribution hecate-atlas; what it registers stands in plugin.py."""
