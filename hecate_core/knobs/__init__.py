"""The knob settings that core itself registers: matrix, dot, l2, decays, GD, momentum."""
