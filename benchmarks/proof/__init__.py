"""Parts of benchmarks/gpu.py; each works on a `Stage`, which on a machine without a GPU is the host backend."""
