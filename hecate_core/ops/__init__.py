"""Ops: pure functions of flat tensors with a forward and an analytical backward."""
