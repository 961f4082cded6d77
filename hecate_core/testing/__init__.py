"""The conformance kit: what every member of a kind must do, as named checks that run on tiny sizes."""
