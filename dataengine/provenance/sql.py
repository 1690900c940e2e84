"""`audit --sql`: one SELECT over the views of a version, by DuckDB in memory.

The views are tables in memory; a query reaches no file, no network and no extension, and changes nothing that lasts.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from decimal import Decimal
from typing import Any

import duckdb

from dataengine.errors import SpecError
from dataengine.provenance.version import Version
from dataengine.provenance.views import SCHEMAS, view

MAX_ROWS = 5_000_000
MAX_TEXT = 100_000
_BATCH = 10_000
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "memory_limit": "2GB",
    "temp_directory": "",
    "threads": "2",
}
_MISSING = re.compile(r"Table with name \"?(\w+)\"? does not exist")


def query(version: Version, sql: str) -> dict[str, Any]:
    """The answer to one SELECT: `columns`, and `rows` as lists of plain values.

    Anything else than one SELECT, what DuckDB cannot run, and more than `MAX_ROWS` rows are a `SpecError`.
    """
    if len(sql) > MAX_TEXT:
        raise SpecError(f"the query has more than {MAX_TEXT:,} characters", fix="shorten it")
    with duckdb.connect(":memory:", config=_CONFIG) as connection:
        try:
            connection.execute("SET python_enable_replacements = false")  # a name is a view, never a variable of ours
            connection.execute("SET lock_configuration = true")
            _check(connection, sql)
            executed = _executed(connection, version, sql)
            columns = [entry[0] for entry in executed.description or ()]
            rows: list[list[Any]] = []
            while batch := executed.fetchmany(_BATCH):
                rows += ([_plain(value) for value in row] for row in batch)
                if len(rows) > MAX_ROWS:
                    raise SpecError(f"more than {MAX_ROWS:,} rows", where="--sql", fix="count, group or LIMIT them")
        except duckdb.Error as error:
            raise _told(str(error)) from None
    return {"columns": columns, "rows": rows}


def _check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise SpecError("only one SELECT can be asked", where="--sql", fix=_views())


def _executed(connection: duckdb.DuckDBPyConnection, version: Version, sql: str) -> duckdb.DuckDBPyConnection:
    """Run a query once the views that it names are there: no other is read.

    A name that DuckDB does not list ahead (`DESCRIBE samples`, a join) is told by its error, one at a time.
    """
    there: set[str] = set()
    with suppress(duckdb.Error):  # it binds as well, and there is nothing to bind to yet
        for name in connection.get_table_names(sql):
            _register(connection, version, name.lower(), there)
    while True:
        try:
            return connection.execute(sql)
        except duckdb.CatalogException as error:
            missing = _MISSING.search(str(error))
            if missing is None or not _register(connection, version, missing.group(1).lower(), there):
                raise


def _register(connection: duckdb.DuckDBPyConnection, version: Version, name: str, there: set[str]) -> bool:
    """Read a view, if it is one that is not there yet."""
    if name not in SCHEMAS or name in there:
        return False
    connection.register(name, view(version, name))
    there.add(name)
    return True


def _told(message: str) -> SpecError:
    what = " ".join(message.split("\n\n", maxsplit=1)[0].split())
    return SpecError(what, where="--sql", fix=_views())


def _views() -> str:
    told = "\n".join(f"    {name}({', '.join(schema.names)})" for name, schema in SCHEMAS.items())
    return f"ask one SELECT over these views:\n{told}"


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)
