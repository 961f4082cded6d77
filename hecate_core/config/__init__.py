"""One schema for a run, read from TOML with the line of every mistake."""
