"""What demo, tests and benchmarks share; not part of the installed package."""
