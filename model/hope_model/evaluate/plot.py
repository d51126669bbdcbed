"""Plots of reports, where matplotlib is installed."""

from typing import Any


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure of so many inches, or None, said on stdout, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed (extra 'plot')")
        return None
    return Figure(figsize=(width, height), layout="constrained")
