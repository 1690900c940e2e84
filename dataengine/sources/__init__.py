"""Source records: what a data set is, which files it consists of, and whether the files at hand are those."""

from dataengine.sources.record import SourceRecord, add, load_record, read_sums
from dataengine.sources.verify import Differences, compare, hashed_files

__all__ = ["Differences", "SourceRecord", "add", "compare", "hashed_files", "load_record", "read_sums"]
