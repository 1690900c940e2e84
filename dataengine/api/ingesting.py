"""Raw data into a lake."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dataengine.api.basics import Tell, mano_folder, silent
from dataengine.convert import Conversion
from dataengine.credentials import refuse_credentials
from dataengine.engine.local import LocalEngine
from dataengine.errors import SpecError
from dataengine.ingest import IngestReport
from dataengine.ingest import ingest as run_ingest
from dataengine.lake import Lake
from dataengine.reading import prepare
from dataengine.sources import load_record


def ingest(
    path: Path,
    converter: str | Conversion,
    lake: Path,
    *,
    dry_run: bool = False,
    mano: Path | None = None,
    record: Path | None = None,
    workers: int | None = None,
    tell: Tell = silent,
) -> IngestReport:
    """Bring the raw data at `path` into a lake. A dry run reads and converts everything and writes nothing.

    `mano` is the folder of the user's MANO files, else `$DATAENGINE_MANO`; naming it for a converter that derives
    nothing from them is a `SpecError`. `record` is a source record: what differs from it is left out.
    """
    refuse_credentials(str(path), "the address of a source")  # before a lake is made for it
    conversion = Conversion.load(converter, mano or mano_folder()) if isinstance(converter, str) else converter
    if mano is not None and not conversion.mano:
        raise SpecError(f"{conversion.converter.name} takes nothing from MANO files", fix="leave out --mano")
    known = load_record(record) if record is not None else None
    told, hashing = (partial(tell, f"{what} {conversion.converter.name}") for what in ("read", "hash"))
    engine = LocalEngine(workers)
    try:
        if Path(path).exists():
            engine.start(partial(prepare, conversion.converter.format.name))  # while the lake is opened
        target = None if dry_run and not Lake.at(lake) else Lake(lake, create=not dry_run)
        return run_ingest(path, conversion, target, engine, told, dry_run=dry_run, record=known, hashing=hashing)
    finally:
        engine.close()
