"""Which units give the smaller and the truer circuit? What `python -m benchmarks.circuits` is made of."""
