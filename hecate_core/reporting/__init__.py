"""`hecate report`: what each level of a run does, recomputed from its checkpoint, in one self-contained page."""
