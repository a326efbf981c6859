"""Many contents and many styles by a plan, measured: python -m benchmarks.studio."""
