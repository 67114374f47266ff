"""Benchmarks: methods x tasks x seeds -> ``table.json``, ``table.md`` and plots."""
