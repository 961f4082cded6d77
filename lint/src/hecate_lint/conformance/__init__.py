"""Specification, code and kernels held together: read statically, over a whole package."""
