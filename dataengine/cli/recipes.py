"""Commands about recipes: check, show, schema."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dataengine.cli.output import print_json, print_table, reported, shown

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or its YAML file.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A recipe parameter, NAME=VALUE.")]
recipe_app = typer.Typer(help="Check a recipe, show what it resolves to, print its JSON Schema.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(recipe_app, name="recipe")


@recipe_app.command()
@reported
def check(recipe: Name, set_: Set = None, json: Json = False) -> None:
    """Check a recipe without reading any data: its fields, converters, cards, steps and their order."""
    from dataengine import api

    found = api.recipe(recipe, parameters(set_))
    if json:
        told = {"recipe": found["recipe"]["name"], "ok": True, "sources": len(found["sources"])}
        print_json({**told, "not_shipped": found["not_shipped"]})
        return
    typer.echo(f"{recipe}: a recipe of {len(found['sources'])} sources, nothing is wrong with it")
    if found["not_shipped"]:
        typer.echo(
            shown(
                f"{len(found['not_shipped'])} of their converters are not shipped, the lake must hold what they made:"
                f" {', '.join(found['not_shipped'])}"
            )
        )
    typer.echo(f"next: dataengine build {recipe} --lake LAKE --out M --dry-run")


@recipe_app.command()
@reported
def show(recipe: Name, set_: Set = None, json: Json = False) -> None:
    """Show what a recipe resolves to: every default filled in, the steps of every source in their order."""
    from dataengine import api

    found = api.recipe(recipe, parameters(set_))
    if json:
        print_json(found)
        return
    document = found["recipe"]
    typer.echo(shown(f"{document['name']}, version {document['version']}: {found['description'] or 'no description'}"))
    for name, value in sorted(document.items()):
        if name not in ("name", "version", "sources", "filters", "steps"):
            typer.echo(shown(f"  {name}: {_inline(value['name'] if name == 'layout' else value)}"))
    rows = [(s["source"], s["weight"], s["cap"], _inline(s["window"]), len(s["steps"])) for s in found["sources"]]
    print_table("sources", ("source", "weight", "cap", "window", "steps"), rows)
    for source in found["sources"]:
        steps = [(step["kind"], step["name"], step["version"], step["parameters"]) for step in source["steps"]]
        print_table(f"steps of {source['source']}", ("kind", "step", "version", "parameters"), steps)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return "null" if value is None else str(value)


@recipe_app.command()
@reported
def schema() -> None:
    """Print the JSON Schema of a recipe, for an editor that checks and completes YAML."""
    from dataengine import api

    print_json(api.recipe_schema())


def parameters(pairs: list[str] | None) -> dict[str, str]:
    """`--set NAME=VALUE` options as a mapping."""
    from dataengine.errors import SpecError

    found = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise SpecError(f"--set {pair!r} is not NAME=VALUE", fix="for example --set data=/data/raw")
        found[name] = value
    return found
