"""Measures what the README promises, each figure as a ratio to a rival in the same run."""
