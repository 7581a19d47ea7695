"""Benchmarks: ratios of things measured side by side in one run, with raw samples kept. Never a test."""
