"""The YAML models (converter, recipe) and the record types (manifest, shard record, ledger row)."""
