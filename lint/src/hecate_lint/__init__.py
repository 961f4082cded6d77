"""Static checks for memory models; imports neither torch nor hecate_core."""
