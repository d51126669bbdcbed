"""What all dashboards have in common, and the kinds of panel that they are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from string import ascii_uppercase
from typing import NamedTuple

from grafana_foundation_sdk.builders import bargauge, heatmap, stat, timeseries
from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    ScaleDistributionConfig,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.heatmap import YAxisConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    Panel,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from hope_dashboards.queries import quantile

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
TAG = "hope"


class Line(NamedTuple):
    """One query and the name of what it gives."""

    expr: str
    legend: str = ""


def quantiles(name: str, *shares: float, by: str = "") -> list[Line]:
    """A line for each share of what a histogram observed lately (0.95: p95), and for each `by`."""
    prefix = f"{{{{{by}}}}} " if by else ""
    return [Line(quantile(share, name, by=by), f"{prefix}p{100 * share:g}") for share in shares]


def board(uid: str, title: str, description: str, sections: dict[str, Sequence[Builder[Panel]]]) -> Dashboard:
    """A dashboard of sections, each a title and its panels from left to right."""
    made = (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("15s")
        .readonly()
        .link(
            DashboardLink("Hope")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("model_name", "Model", "label_values(hope:slots, model_name)"))
        .with_variable(
            _variable("instance", "Instance", 'label_values(hope:slots{model_name=~"$model_name"}, instance)')
        )
    )
    for name, panels in sections.items():
        made = made.with_row(Row(name))
        for panel in panels:
            made = made.with_panel(panel)
    return made


def as_json(dashboard: Dashboard) -> str:
    """As Grafana reads it; the panels are numbered in order."""
    made = dashboard.build()
    numbers = count(1)
    for panel in made.panels or ():
        panel.id_val = next(numbers)
    return json.dumps(made, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def graph(
    title: str,
    *lines: Line,
    unit: str,
    about: str,
    width: int = 8,
    stacked: bool = False,
    logarithmic: bool = False,
    least: float | None = 0,
) -> timeseries.Panel:
    """Values over time. `least`: the axis begins there, None leaves it to the values."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(HEIGHT)
        .line_width(1)
        .fill_opacity(20 if stacked else 5)
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    if least is not None and not logarithmic:
        panel = panel.min(least)
    if stacked:
        panel = panel.stacking(StackingConfig().mode(StackingMode.NORMAL))
    if logarithmic:
        panel = panel.scale_distribution(ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    for line, ref_id in zip(lines, ascii_uppercase, strict=False):
        panel = panel.with_target(_query(line).ref_id(ref_id))
    return panel


def number(
    title: str,
    expr: str,
    *,
    unit: str,
    about: str,
    warn_from: float | None = None,
    warn_below: float | None = None,
) -> stat.Panel:
    """The value now, red from `warn_from` on, or below `warn_below`."""
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .span(4)
        .height(4)
        .thresholds(_thresholds(warn_from, warn_below))
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_query(Line(expr)))
    )


def bars(
    title: str, line: Line, *, unit: str, about: str, width: int = 8, most: float | None = None
) -> bargauge.Panel:
    """The values now, beside each other."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(HEIGHT)
        .min(0)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_query(line))
    )
    return panel if most is None else panel.max(most)


def spread(title: str, bucket_rate: str, *, unit: str, about: str, width: int = 8) -> heatmap.Panel:
    """A histogram's observations over time. `bucket_rate`: by `le`."""
    target = _query(Line(bucket_rate, "{{le}}")).format(PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .span(width)
        .height(HEIGHT)
        .y_axis(YAxisConfig().unit(unit))
        .with_target(target)
    )


def _query(line: Line) -> Dataquery:
    query = Dataquery().expr(line.expr).range().datasource(SOURCE).ref_id("A")
    return query.legend_format(line.legend) if line.legend else query


def _variable(name: str, label: str, query: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(text="All", value="$__all"))
    )


def _thresholds(warn_from: float | None, warn_below: float | None) -> ThresholdsConfig:
    steps = [Threshold(value=None, color="green" if warn_below is None else "red")]
    if warn_from is not None:
        steps.append(Threshold(value=warn_from, color="red"))
    if warn_below is not None:
        steps.append(Threshold(value=warn_below, color="green"))
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
