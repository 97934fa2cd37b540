"""Benchmarks against other programs of the field; one module a question."""
