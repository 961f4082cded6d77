"""Configs that travel with the package: `hecate build demo` finds them by name."""
