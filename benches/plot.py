"""Charts as SVG, readable on light and dark pages: bars of one figure each, and lines."""

import math
from dataclasses import dataclass
from html import escape

WIDTH = 860
FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', sans-serif\""
INK, FAINT, GRID, PAPER = "#1f2933", "#66727f", "#e4e8ec", "#ffffff"
OURS, PEER, FLOOR = "#2f6fde", "#d9822b", "#8c98a4"
COLORS = [OURS, PEER, "#3a9d6b", "#8a5cc2", "#c2415d", "#4aa3b8", FLOOR]


@dataclass
class Bar:
    label: str
    value: float
    low: float
    high: float
    color: str = OURS


def bars(title, unit, rows, subtitle=""):
    """A horizontal bar for each row, with a whisker from its low to its high."""
    left, right, top, step = 270, 100, 66, 26
    most = max(row.high for row in rows) or 1
    scale = (WIDTH - left - right) / most
    shapes = []
    for n, row in enumerate(rows):
        middle = top + n * step + step / 2
        end = left + row.value * scale
        shapes += [
            _text(left - 10, middle + 4, row.label, "end"),
            f'<rect x="{left}" y="{middle - 8:.1f}" width="{max(row.value * scale, 1):.1f}" height="16" '
            f'rx="2" fill="{row.color}"/>',
            _line(left + row.low * scale, middle, left + row.high * scale, middle, INK, 1.2),
            _text(max(end, left + row.high * scale) + 8, middle + 4, _short(row.value), color=FAINT)]
    height = top + len(rows) * step + 18
    return _document(title, f"{unit}{'; ' + subtitle if subtitle else ''}", shapes, height)


def lines(title, unit, series, x_title, subtitle="", logarithmic=False):
    """A line for each of `series`, a name and its points. If the x axis is not logarithmic, each
    x has one place on it, whatever the distance."""
    left, right, top, bottom, height = 70, 250, 70, 52, 400
    places = sorted({x for _, points in series for x, _ in points})
    most = _round_up(max(y for _, points in series for _, y in points))
    across, down = WIDTH - left - right, height - top - bottom

    def x_of(x):
        if logarithmic:
            first, last = math.log(places[0]), math.log(places[-1])
            return left + across * ((math.log(x) - first) / (last - first) if last > first else 0.5)
        return left + across * (places.index(x) / (len(places) - 1) if len(places) > 1 else 0.5)

    def y_of(y):
        return top + down * (1 - y / most)

    shapes = []
    for n in range(5):
        y = most * n / 4
        shapes += [_line(left, y_of(y), left + across, y_of(y), GRID, 1),
                   _text(left - 8, y_of(y) + 4, _short(y), "end", FAINT)]
    shapes += [_text(x_of(x), height - bottom + 20, _short(x), "middle", FAINT) for x in places]
    shapes.append(_text(left + across / 2, height - 12, x_title, "middle", FAINT))
    labels = _apart([(y_of(points[-1][1]), name) for name, points in series])
    for n, (name, points) in enumerate(series):
        color = COLORS[n % len(COLORS)]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        shapes += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{color}"/>' for x, y in points]
        shapes.append(_text(left + across + 12, labels[name] + 4, name, color=color))
    return _document(title, f"{unit}{'; ' + subtitle if subtitle else ''}", shapes, height)


def _apart(labels, distance=16):
    """Positions of labels that would otherwise overlap."""
    placed, last = {}, -math.inf
    for y, name in sorted(labels):
        last = max(y, last + distance)
        placed[name] = last
    return placed


def _round_up(value):
    if value <= 0:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if power * step >= value)


def _short(value):
    for factor, unit in ((1_000_000, "M"), (1000, "k")):
        if value >= factor and (value >= 10 * factor or value % factor == 0):
            return f"{value / factor:,.3g}{unit}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _line(x1, y1, x2, y2, color, width):
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
            f'stroke-width="{width}"/>')


def _text(x, y, text, anchor="start", color=INK, size=13, weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" font-size="{size}" '
            f'font-weight="{weight}">{escape(text)}</text>')


def _document(title, subtitle, shapes, height):
    body = "\n".join([_text(20, 28, title, size=17, weight="600"), _text(20, 48, subtitle, color=FAINT), *shapes])
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" role="img" {FONT}>\n<title>{escape(title)}</title>\n'
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{PAPER}"/>\n{body}\n</svg>\n')
