"""Distribution hecate-lattice; what it registers stands in plugin.py."""
