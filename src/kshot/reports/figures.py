"""The report's figures as SVG that takes the page's own colours."""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullLocator

from kshot.core.visible_text import visible
from kshot.studies.experiment import Plot

INK = "#010203"  # stands for the page's text colour
COLOURS = ("#3b82f6", "#ea580c", "#16a34a", "#9333ea", "#db2777", "#0891b2")  # readable on white and on black
N_BLOCKS = 8


def learning_curve(rows: Mapping[str, Sequence[Mapping[str, Any]]], shown: Sequence[str], key: str, title: str) -> str:
    """Return `key` against the number of examples known, as means of blocks of the stream.

    Args:
        rows: Sample rows of each finished recipe.
        shown: The recipes that get a colour, the first one also the band of its 95 % intervals; the others are grey.
        key: "score" or "bits".
        title: What it is called.
    """
    figure, ax = _figure()
    lines: dict[str, Any] = {}
    for name in (*(n for n in rows if n not in shown), *reversed(shown)):
        at, middle, reach = _blocks(rows[name], key)
        if name not in shown:
            ax.plot(at, middle, color=INK, alpha=0.2, linewidth=0.8)
            continue
        place = shown.index(name)
        width = 1.2 if place else 2
        (lines[name],) = ax.plot(at, middle, "o-", color=COLOURS[place], markersize=3, linewidth=width)
        if not place:
            low, high = (middle - reach).clip(0), (middle + reach).clip(max=1.0 if key == "score" else np.inf)
            ax.fill_between(at, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
    ax.set_xlabel("examples known", color=INK)
    ax.set_ylabel(title, color=INK)
    names = [name for name in shown if name in lines]
    _legend(figure, [lines[name] for name in names], names)
    return _svg(figure, f"{title} against the number of examples known")


def _blocks(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where blocks of rows lie in the stream, their means, and the reach of their 95 % intervals."""
    known = [(r["position"], float(r[key])) for r in rows if r[key] is not None]
    blocks = np.array_split(np.array(known).reshape(-1, 2), max(1, min(N_BLOCKS, len(known) // 4)))
    at, middle = (np.array([b[:, i].mean() for b in blocks if len(b)]) for i in (0, 1))
    reach = np.array([1.96 * b[:, 1].std() / np.sqrt(len(b)) for b in blocks if len(b)])
    return at, middle, reach


def pareto(board: Sequence[Mapping[str, Any]], metric: str, cost: str, title: str) -> str:
    """Return quality against what a query costs; the recipes that nothing cheaper equals are joined.

    Args:
        board: Rows of the leaderboard.
        metric: What `metric` is.
        cost: The key of the cost.
        title: What the cost is called.
    """
    figure, ax = _figure()
    points = sorted((max(row[cost], 1.0), -row["metric"], row["recipe"]) for row in board)
    best, front = -np.inf, []
    for price, minus, name in points:
        if (value := -minus) > best:
            best = value
            front.append((price, value, name))
    ax.plot([p[0] for p in front], [p[1] for p in front], "-", color=COLOURS[0], linewidth=1.5, drawstyle="steps-post")
    names = {name for *_, name in front}
    for price, minus, name in points:
        on, value = name in names, -minus
        ax.plot(price, value, "o", color=COLOURS[0] if on else INK, alpha=1.0 if on else 0.35, markersize=5)
        if on:
            ax.annotate(visible(name), (price, value), xytext=(4, 4), textcoords="offset points", fontsize=8, color=INK)
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.2, y=0.15)
    ax.set_xlabel(title, color=INK)
    ax.set_ylabel(metric, color=INK)
    return _svg(figure, f"{metric} against {title}")


def drawn(plot: Plot) -> str:
    """Return a study's figure: one line a curve; where there are more than colours, the later ones are broken lines."""
    figure, ax = _figure()
    lines = []
    for i, curve in enumerate(plot.curves):
        style = ("-", "--", ":")[i // len(COLOURS) % 3]
        colour = COLOURS[i % len(COLOURS)]
        lines += ax.plot(curve.x, curve.y, color=colour, linestyle=style, linewidth=1.5, marker="o", markersize=3)
    if plot.chance is not None:
        ax.axhline(plot.chance, color=INK, alpha=0.5, linestyle="--", linewidth=0.8)
    if plot.log_x:
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(plot.x_title, color=INK)
    ax.set_ylabel(plot.y_title, color=INK)
    names = [curve.name for curve in plot.curves]
    longest = max(map(len, names), default=0)
    _legend(figure, lines, names, columns=3 if longest <= 20 else 2 if longest <= 34 else 1)
    return _svg(figure, plot.title)


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], columns: int = 3) -> None:
    """Put names below the figure; one that begins with "_" would be left out as a label, so all are put in after."""
    where: Any = {"loc": "lower center", "ncols": columns}
    legend = figure.legend(handles, ["name"] * len(names), fontsize=7, frameon=False, labelcolor=INK, **where)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(visible(name))


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.6, 3.6))  # fixed margins: laying out by trial would draw everything twice
    ax = figure.add_axes((0.13, 0.3, 0.84, 0.67))
    ax.patch.set_visible(False)
    ax.tick_params(which="both", colors=INK, labelsize=8)
    for side, spine in ax.spines.items():
        spine.set_edgecolor(INK)
        spine.set_visible(side in ("left", "bottom"))
    figure.patch.set_visible(False)
    return figure, ax


def _named(figure: Figure) -> Iterator[Text]:
    """Return the texts that hold names; those of ticks are numbers, and formulas where they are powers."""
    for ax in figure.axes:
        yield from (*ax.texts, ax.xaxis.label, ax.yaxis.label)
    for legend in figure.legends:
        yield from legend.get_texts()


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as an element for a page: its text as text, its ink in the page's colour."""
    from matplotlib import rc_context

    for text in _named(figure):
        text.set_parse_math(False)  # a "$" in a name is a dollar
    held = io.StringIO()
    own: Any = {"svg.fonttype": "none", "svg.hashsalt": "kshot", "font.family": "sans-serif"}
    with rc_context(own), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser's own fonts are used
        figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    text = held.getvalue()
    start = text.index("<svg")
    return text[start:].replace(INK, "currentColor").replace("<svg", '<svg role="img"', 1)
