"""`study.html`: what came out of a study that trains networks, one file without any other."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from kshot.core.version import __version__
from kshot.studies.experiment import Findings


def study_page(about: Mapping[str, Any], findings: Findings, *, summary: str) -> str:
    """Return the page of a study.

    Args:
        about: `study`, `minutes` and `seed`.
        findings: What came out.
        summary: What the study is, whose first line is shown.
    """
    from kshot.reports.figures import drawn

    return _template().render(
        about=about,
        findings=findings,
        summary=summary.partition("\n")[0],
        figures=[(plot, drawn(plot)) for plot in findings.plots],
        said=said,
        style=files("kshot.reports").joinpath("report.css").read_text("utf-8"),
        version=__version__,
    )


def said(value: Any) -> str:
    """Return a value of the table as text: numbers with three decimals, whole ones with none."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@cache
def _template() -> Any:
    from jinja2 import Environment

    text = files("kshot.reports").joinpath("study.html.jinja").read_text("utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
