"""One script per question. Run them from the root of the repository: `python -m benchmarks.scaling --help`.

Each writes what it measured to `benchmarks/results`, with the machine, the versions and all timings; the README's
figures are made from those files. `acceptance.py` is for machines with a network: it traces public models.
"""
