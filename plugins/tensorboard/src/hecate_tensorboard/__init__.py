"""Distribution hecate-tensorboard; what it registers stands in plugin.py."""
