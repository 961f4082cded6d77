"""`hecate check`: dry runs over tiny models, and the tables that are derived from what components declare."""
