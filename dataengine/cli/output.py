"""What the commands print: tables, JSON, errors; progress is `cli/progress.py`. No logic."""

from __future__ import annotations

import functools
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from dataengine.cli.progress import progress as progress  # noqa: PLC0414 - what commands print comes from here
from dataengine.credentials import redacted
from dataengine.errors import DataEngineError, StorageError

MAX_LINE = 4000
MAX_PROBLEMS = 20
PIPED_WIDTH = 200  # of tables when no terminal says how wide it is
MAX_FIRST = 40  # a name in the first column this long stands in one line; in a wide table half its width


def reported[**Params, Result](command: Callable[Params, Result]) -> Callable[Params, Result]:
    """Print a DataEngineError without a traceback, and exit with its documented code."""

    @functools.wraps(command)
    def guarded(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except DataEngineError as error:
            _print_error(error)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:  # who reads has enough, as `head` does; typer ends quietly
            raise
        except OSError as error:
            fix = "check the path, who may read and write it, and the space on the disk"
            _print_error(StorageError(f"{error.strerror or error}", where=str(error.filename or "") or None, fix=fix))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("interrupted: run the same command again, it goes on with what is finished", err=True)
            raise typer.Exit(128 + signal.SIGINT) from None

    return guarded


def _print_error(error: DataEngineError) -> None:
    kind = {2: "usage", 4: "conflict"}.get(error.exit_code, "error")
    lines = redacted(str(error)).splitlines()
    typer.echo("\n".join([f"{kind}: {shown(lines[0])}", *map(shown, lines[1:])]), err=True)


def shown(text: str) -> str:
    """A text in one line of the terminal: what does not print is escaped."""
    from dataengine.transforms.language import printable

    return printable(text, MAX_LINE)


def print_json(value: Any) -> None:
    """One JSON document on standard output. What is no Unicode (a file name may be any bytes) is escaped."""
    import orjson

    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError:
        text = json.dumps(value, indent=2, sort_keys=True)
    typer.echo(text)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table; numbers to the right. An empty one says so."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    if not rows:
        console.print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        right = all(isinstance(row[number], int | float) for row in rows)
        first = number == 0 and all(len(_cell(row[0])) <= max(MAX_FIRST, console.width // 2) for row in rows)
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=first)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console.print(table)


def print_problems(title: str, rows: Sequence[tuple[str, str, str]]) -> None:
    """The first of (file or episode, reason, what), and how many there are of each reason when they are many."""
    print_table(title, ("file or episode", "reason", "what"), rows[:MAX_PROBLEMS])
    if len(rows) > MAX_PROBLEMS:
        counts = Counter(reason for _, reason, _ in rows).most_common()
        told = ", ".join(f"{count:,} {reason}" for reason, count in counts)
        typer.echo(f"... and {len(rows) - MAX_PROBLEMS:,} more (--json lists all); in all {told}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return shown(", ".join(f"{key} {item}" for key, item in value.items()))
    if isinstance(value, list | tuple):
        return shown(", ".join(map(str, value)))
    return shown(str(value))
