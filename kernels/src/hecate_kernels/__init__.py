"""Kernel pairs for ops: a device backend (NVRTC) and a host backend that runs the same source."""
