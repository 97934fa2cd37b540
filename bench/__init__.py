"""Benchmarks: ``python -m bench.NAME [--quick] [--json]``; see docs/performance.md."""
