"""An audit of a mixture on S3 says what it says of the same mixture on disk; its documents come by our own store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataengine import api


def test_questions_sql_and_trace_on_s3(bucket: str, tmp_path: Path, small_recipe: Path, pusht_raw: Path) -> None:
    lake, parameters = tmp_path / "L", {"data": str(pusht_raw)}
    for out in (tmp_path / "M", Path(f"{bucket}/M")):
        api.build(str(small_recipe), lake, out, engine="local", workers=1, parameters=parameters)
    near, far = str(tmp_path / "M"), f"{bucket}/M"
    ((key, uid),) = api.audit(far, sql="SELECT key, uid FROM samples ORDER BY key LIMIT 1")["rows"]
    questions: list[dict[str, Any]] = [{"shard": 0}, {"sample": key}, {"episode": uid}, {"source": "pusht_lerobot"}]
    questions += [{"license": "Apache-2.0"}, {"step": "no_nan"}, {"drops": True}]
    for question in [*questions, {"sql": "SELECT * FROM samples ORDER BY key"}]:
        assert api.audit(far, **question) == api.audit(near, **question)
    assert len(api.audit(far, code="0.1.0")["shards"]) == len(api.audit(near)["shards"])
    assert api.trace(far, key, lake=lake, raw=pusht_raw) == api.trace(near, key, lake=lake, raw=pusht_raw)
