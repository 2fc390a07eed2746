"""Medians over rounds.
Other load on the machine changes from round to round, and affects all contenders of a round
alike. So two contenders are compared within each round, and the median of the ratios is reported.
"""

import statistics


def quartiles(values):
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3


def median_ratio(values, others):
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


def spread(values, unit=""):
    low, _, high = quartiles(values)
    return f"{number(low)}..{number(high)}{unit}"


def number(value):
    """With at least three digits, and no more decimal places than make sense."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
