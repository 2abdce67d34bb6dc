"""Speed, judged by ratios that are measured side by side in one run: ``python -m benchmarks``.

Absolute times belong to a machine and its day. So all contenders of a case take turns, round after round, and what
is reported is the median, over the rounds, of the ratio within a round.
"""
