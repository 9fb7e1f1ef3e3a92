"""How fast this library is, beside its peers and beside what the machine can do at best.

    python -m benchmarks [NAME …] [--list] [--device cuda] [--check]

Each subject is one file of ``subjects/``; ``measure.py`` lets the entrants take turns, ``report.py`` writes
what came out into docs/benchmarks/. docs/benchmarks/README.md says what each subject means.
"""
