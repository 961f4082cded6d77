"""Strategies that core itself registers: sequential, chunkwise, frozen."""
