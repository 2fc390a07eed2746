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


@dataclass
class Panel:
    """A chart of several: lines over time, whose points are seconds and values."""
    title: str
    unit: str
    series: list
    # Stands in place of lines, if there are no points.
    empty: str = "no data"


# How a value is written, by Grafana's names of units: what it is multiplied with, and a suffix.
UNITS = {"percentunit": (100, " %"), "s": (1, " s"), "reqps": (1, "/s"), "bytes": (1e-6, " MB"), "short": (1, "")}
MOST_LETTERS = 30


def panels(title, subtitle, shown, seconds, columns=3, most_names=6):
    """Small charts in rows, with the same time axis."""
    width, height, gap, top = 380, 216, 20, 68
    shapes = []
    for n, panel in enumerate(shown):
        x, y = gap + n % columns * (width + gap), top + n // columns * (height + gap)
        shapes += [f'<g transform="translate({x} {y})">', *_panel(panel, width, height, seconds, most_names), "</g>"]
    rows = -(-len(shown) // columns)
    return _document(title, subtitle, shapes, top + rows * (height + gap), gap + columns * (width + gap))


def _panel(panel, width, height, seconds, most_names):
    left, right, top, bottom = 56, 12, 32, 62
    across, down = width - left - right, height - top - bottom
    factor, suffix = UNITS[panel.unit]
    # Of many lines the highest have names.
    series = sorted(panel.series, key=lambda one: -max((value for _, value in one[1]), default=0))
    most = _round_up(max((value for _, points in series for _, value in points), default=0) * factor)
    shapes = [f'<rect width="{width}" height="{height}" rx="5" fill="none" stroke="{GRID}"/>',
              _text(12, 21, panel.title, weight="600")]
    for n in range(3):
        y = top + down * (1 - n / 2)
        shapes += [_line(left, y, left + across, y, GRID, 1),
                   _text(left - 6, y + 4, _short(most * n / 2) + suffix, "end", FAINT, 11)]
    for minute in range(int(seconds // 60) + 1):
        x = left + across * minute * 60 / seconds
        shapes.append(_text(x, top + down + 15, f"{minute} min" if minute else "0",
                            "end" if x > width - 30 else "middle", FAINT, 11))
    if not series:
        shapes.append(_text(left + across / 2, top + down / 2 + 4, panel.empty, "middle", FAINT))
    for n, (_, points) in reversed(list(enumerate(series))):
        path, previous = [], None
        for second, value in points:
            # A line has a gap where values are missing.
            begins = previous is None or second - previous > seconds / 50
            place = f"{left + across * second / seconds:.1f}", f"{top + down * (1 - value * factor / most):.1f}"
            # A level line needs only its ends.
            if len(path) > 1 and not begins and path[-1][0] == "L" and path[-1][2] == path[-2][2] == place[1]:
                path.pop()
            path.append(("M" if begins else "L", *place))
            previous = second
        path = [f"{act}{x} {y}" for act, x, y in path]
        shapes.append(f'<path d="{" ".join(path)}" fill="none" stroke="{COLORS[n % len(COLORS)]}" stroke-width="1.6"/>')
    x, y = 12, height - 26
    for n, (name, _) in enumerate(series[:most_names]):
        name = name if len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS]}…"
        wide = 14 + len(name) * 6
        if x + wide > width - 8:
            x, y = 12, y + 15
        if y > height - 10:
            break
        shapes += [f'<rect x="{x}" y="{y - 8}" width="8" height="8" fill="{COLORS[n % len(COLORS)]}"/>',
                   _text(x + 12, y, name, size=11)]
        x += wide + 10
    return shapes


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


def _document(title, subtitle, shapes, height, width=WIDTH):
    body = "\n".join([_text(20, 28, title, size=17, weight="600"), _text(20, 48, subtitle, color=FAINT), *shapes])
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" {FONT}>\n<title>{escape(title)}</title>\n'
            f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>\n{body}\n</svg>\n')
