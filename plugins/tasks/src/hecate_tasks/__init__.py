"""Distribution hecate-tasks; what it registers stands in plugin.py."""
