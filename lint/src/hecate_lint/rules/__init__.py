"""The rules that travel with hecate-lint, one file each; the entry point group `hecate.lint_rules` names `rules`."""

from hecate_lint.registry import built_in as rules

__all__ = ["rules"]
