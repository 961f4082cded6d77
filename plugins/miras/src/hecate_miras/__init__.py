"""Distribution hecate-miras; what it registers stands in plugin.py."""
