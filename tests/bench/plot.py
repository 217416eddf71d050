"""A plot of growing costs, as an SVG for light and dark pages."""

import math
from html import escape

# Title of a line in the plot → relative amount of data → relative cost.
Lines = dict[str, dict[int, float]]

_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 24, 24, 96
_LEGEND_ROW = 20
_LIGHT = ("#0969da", "#bc4c00", "#1a7f37")
_DARK = ("#58a6ff", "#ffa657", "#56d364")


def _colours(text: str, lines: tuple[str, ...]) -> str:
    return f"text {{ fill: {text}; }} " + " ".join(
        f".line{number} {{ stroke: {colour}; }} .dot{number} {{ fill: {colour}; }}"
        for number, colour in enumerate(lines)
    )


_STYLE = f"""
  text {{ font: 13px system-ui, sans-serif; }}
  path {{ fill: none; stroke-width: 2.5; }}
  .grid {{ stroke: #8c959f; stroke-opacity: .35; }}
  {_colours("#24292f", _LIGHT)}
  @media (prefers-color-scheme: dark) {{ {_colours("#e6edf3", _DARK)} }}
"""


def svg(lines: Lines) -> str:
    factors = sorted({factor for line in lines.values() for factor in line})
    most = max(2.0, math.ceil(2 * max(max(line.values()) for line in lines.values())) / 2)

    def x(factor: float) -> float:
        share = math.log(factor / factors[0]) / math.log(factors[-1] / factors[0])
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(cost: float) -> float:
        return round(_HEIGHT - _BOTTOM - cost / most * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = []
    for half in range(int(2 * most) + 1):
        at = y(half / 2)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>'
        )
        parts.append(_text(_LEFT - 8, at + 4, f"{half / 2:g} ×", "end"))
    for factor in factors:
        anchor = "end" if factor == factors[-1] else "middle"
        parts.append(_text(x(factor), y(0) + 20, f"{factor} × the data", anchor))
    for number, (title, line) in enumerate(lines.items()):
        points = [(x(factor), y(cost)) for factor, cost in sorted(line.items())]
        row = y(0) + 44 + number * _LEGEND_ROW
        path = "M" + " L".join(f"{left},{top}" for left, top in points)
        parts.append(f'<path class="line{number}" d="{path}"/>')
        parts += [
            f'<circle class="dot{number}" cx="{left}" cy="{top}" r="4"/>'
            for left, top in (*points, (_LEFT + 4, row - 4))
        ]
        costs = ", ".join(f"{cost:.2f}" for _, cost in sorted(line.items()))
        parts.append(_text(_LEFT + 16, row, f"{title}: {costs} × the cost", "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">\n'
        f"<title>What things cost as the data grows</title>\n<style>{_STYLE}</style>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(left: float, top: float, words: str, anchor: str) -> str:
    return f'<text x="{left}" y="{top}" text-anchor="{anchor}">{escape(words)}</text>'
