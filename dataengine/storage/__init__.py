"""The one door to files: reading source files safely, and publishing results atomically."""

from dataengine.storage.local import fsync_folder, make_folder, sha256_file
from dataengine.storage.mirror import address_of, local_source
from dataengine.storage.source import CHUNK, SourceFile, SourceRoot, root_and_files
from dataengine.storage.store import Place, StagedFile, Store, Writers, backend_of, remote, staged_by, staged_name

__all__ = [
    "CHUNK",
    "Place",
    "SourceFile",
    "SourceRoot",
    "StagedFile",
    "Store",
    "Writers",
    "address_of",
    "backend_of",
    "fsync_folder",
    "local_source",
    "make_folder",
    "remote",
    "root_and_files",
    "sha256_file",
    "staged_by",
    "staged_name",
]
