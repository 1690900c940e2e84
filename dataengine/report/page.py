"""The page: one HTML file with its data, styles and scripts inside. It asks no network, and may not (its policy).

Everything that comes from data stands in data blocks, never in markup: `<` is escaped there, and the scripts write it
as text. The policy names the scripts by digest, so that nothing else would run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import re
from importlib.resources import files
from typing import Any

import orjson

from dataengine.report.data import Document

_VENDOR = ("d3.min.js", "plot.min.js")
_SCRIPTS = (
    "dom.js",
    "table.js",
    "charts.js",
    "overview.js",
    "values.js",
    "samples.js",
    "records.js",
    "compare.js",
    "main.js",
)
_ESCAPED = re.compile("[<>&\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def page(document: Document) -> bytes:
    """The page of a document: the same bytes for the same document and libraries."""
    scripts = [*(_asset(f"vendor/{name}") for name in _VENDOR), "".join(_asset(name) for name in _SCRIPTS)]
    title = html.escape(f"{document.summary['name']}@{document.summary['version']}")
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n',
        f"<title>{title} - dataengine report</title>\n<style>\n{_asset('report.css')}</style>\n</head>\n",
        _asset("body.html"),
        f'<script type="application/json" id="summary">{_json(document.summary)}</script>\n',
        f'<script type="text/plain" id="tables">{_packed(document.tables)}</script>\n',
        f'<script type="application/json" id="pictures">{_json(document.samples)}</script>\n',
        *(f"<script>{script}</script>\n" for script in scripts),
        f"<!-- The charts are drawn by these libraries:\n{_asset('vendor/LICENSES.txt')}-->\n</body>\n</html>\n",
    ]
    return "".join(parts).encode()


def _asset(name: str) -> str:
    return files("dataengine.report").joinpath("assets", *name.split("/")).read_text("utf-8")


def _json(value: Any) -> str:
    """JSON that ends no script element and holds no bidirectional control as such."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return _ESCAPED.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _packed(value: Any) -> str:
    """gzip of the JSON as base64, without a time in its header."""
    return base64.b64encode(gzip.compress(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), 9, mtime=0)).decode()


def _policy(scripts: list[str]) -> str:
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
