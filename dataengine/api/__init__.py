"""The engine as functions: what the command line does, without printing. The CLI is only a skin over this."""

from dataengine.api.building import BuildOutcome, build, ingest, plan, relabel, try_step
from dataengine.api.catalog import (
    inspect,
    list_converters,
    list_embodiments,
    list_formats,
    list_layouts,
    recipe,
    recipe_schema,
    show_embodiment,
    show_layout,
)
from dataengine.api.catalogues import catalogue_export, catalogue_show, forecast, list_catalogues
from dataengine.api.common import EngineName, Tell
from dataengine.api.forgetting import forget, lake_gc, lake_kept, purge
from dataengine.api.lakes import lake_list, lake_remove, stale
from dataengine.api.report import report
from dataengine.api.schedules import RepeatedUrls, repeated_urls, schedule
from dataengine.api.sources import Added, source_add, source_check, source_show
from dataengine.api.statistics import stats_check, stats_export, stats_show
from dataengine.api.versions import (
    audit,
    diff,
    documents,
    gc,
    log,
    mixtures,
    open_mixture,
    outdated,
    rebuild,
    tag,
    tags,
    trace,
    untag,
    urls,
    verify,
)
from dataengine.api.view import view

__all__ = [
    "Added",
    "BuildOutcome",
    "EngineName",
    "RepeatedUrls",
    "Tell",
    "audit",
    "build",
    "catalogue_export",
    "catalogue_show",
    "diff",
    "documents",
    "forecast",
    "forget",
    "gc",
    "ingest",
    "inspect",
    "lake_gc",
    "lake_kept",
    "lake_list",
    "lake_remove",
    "list_catalogues",
    "list_converters",
    "list_embodiments",
    "list_formats",
    "list_layouts",
    "log",
    "mixtures",
    "open_mixture",
    "outdated",
    "plan",
    "purge",
    "rebuild",
    "recipe",
    "recipe_schema",
    "relabel",
    "repeated_urls",
    "report",
    "schedule",
    "show_embodiment",
    "show_layout",
    "source_add",
    "source_check",
    "source_show",
    "stale",
    "stats_check",
    "stats_export",
    "stats_show",
    "tag",
    "tags",
    "trace",
    "try_step",
    "untag",
    "urls",
    "verify",
    "view",
]
