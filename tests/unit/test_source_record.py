"""Source records: facts told or unknown, licences of SPDX, digests and lists of them, policies, credentials."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from dataengine import api
from dataengine.credentials import has_credential, redacted, refuse_credentials
from dataengine.documents import load_yaml, spec_files
from dataengine.errors import ConflictError, FormatError, SpecError
from dataengine.mixture.policy import stated_together
from dataengine.sources import SourceRecord, add, load_record, read_sums
from dataengine.sources import record as records
from dataengine.specs.converter import Converter, load_converter
from dataengine.specs.policy import AllowSpec, license_allowed, refusals
from dataengine.specs.records import SourceSummary
from dataengine.specs.source import Consent, Deidentification, SourceInfo
from dataengine.storage import SourceFile

FACTS: dict[str, Any] = {
    "name": "kitchen",
    "url": "https://example.org/kitchen",
    "revision": "v1",
    "license": "CC-BY-4.0",
    "license_evidence": "LICENSE: CC BY 4.0",
    "synthetic": False,
}
FILES = {"a.txt": SourceFile("a.txt", "aa" * 32, 3), "b/c.txt": SourceFile("b/c.txt", "bb" * 32, 4)}


def info(**told: Any) -> SourceInfo:
    return SourceInfo.model_validate({**FACTS, **told})


def converter(**told: Any) -> Converter:
    document = load_yaml(spec_files("converters")["pusht_lerobot"])
    return Converter.parse({**document, "source": {**document["source"], **told}}, "a test")


@pytest.mark.parametrize("name", sorted(spec_files("converters")))
def test_shipped_facts_are_told(name: str) -> None:
    source = load_converter(name).source
    source.check()
    # A licence that nobody tells is `unknown`, and its evidence says where it was looked for.
    assert source.license != "unknown" or len(str(source.license_evidence)) > 20, f"{name}: where was it looked for?"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("license", "CC BY 4.0", "no SPDX expression"),
        ("license", "cc-by-4.0", "SPDX writes 'cc-by-4.0' as 'CC-BY-4.0'"),
        ("license", "", "license: blank"),
        ("creator", "  ", "creator: blank"),
        ("consent", {"basis": ""}, "consent.basis: blank"),
        ("license_evidence", {"quote": "MIT", "sha256": "abc"}, "not 64 hexadecimal digits"),
    ],
)
def test_a_fact_is_told_or_unknown(field: str, value: Any, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        converter(**{field: value})
    assert told.replace("license: blank", "license") in str(caught.value)


@pytest.mark.parametrize("text", ["unknown", "LicenseRef-House-terms", "MIT OR (Apache-2.0 AND CC-BY-4.0)"])
def test_licences_that_stand(text: str) -> None:
    assert converter(license=text).source.license == text


def test_rows_of_before_are_read_as_they_were_written() -> None:
    row = orjson.dumps({**FACTS, "license": "CC BY 4.0", "url": ""})
    assert SourceInfo.model_validate_json(row).license == "CC BY 4.0"


def test_later_fields_that_say_nothing_change_no_digest() -> None:
    plain = info()
    assert set(plain.canonical()) == {
        *FACTS, "terms_url", "creator", "citation", "usage", "consent", "deidentification", "commercial_ok",
    }  # fmt: skip
    told = info(retrieved_at="2026-01-01", record_sha256="ab")
    assert told.stated() == plain.canonical()
    assert told.canonical() == {**plain.canonical(), "retrieved_at": "2026-01-01", "record_sha256": "ab"}
    base = converter()
    assert converter(retrieved_at="2026-01-01").digest() == base.digest()
    assert converter(collection="by hand").digest() != base.digest()


def test_parts_read_as_a_sentence() -> None:
    assert str(Consent(basis="signed", withdrawal_contact="x@y.org")) == "signed"
    blurred = Deidentification(faces="blurred", plates="blurred", audio="removed", tool="EgoBlur", version="2")
    assert str(blurred) == "faces blurred, plates blurred, audio removed (EgoBlur 2)"


def test_a_record_s_digest_is_over_facts_and_files() -> None:
    one = SourceRecord(info(), FILES)
    again = SourceRecord(info(retrieved_at="2026-05-05"), dict(reversed(FILES.items())))
    assert one.digest == again.digest, "when it was fetched, and in which order, is no part of it"
    assert one.digest != SourceRecord(info(license="MIT"), FILES).digest
    other = {**FILES, "a.txt": SourceFile("a.txt", "ac" * 32, 3)}
    assert one.digest != SourceRecord(info(), other).digest
    assert one.digest != SourceRecord(info(), {"a.txt": FILES["a.txt"]}).digest
    assert one.check_read(FILES.values()) is None
    assert one.check_read(other.values()).reason == "digest_mismatch"  # type: ignore[union-attr]
    assert one.check_read([SourceFile("d", "aa" * 32, 3)]).reason == "undeclared_file"  # type: ignore[union-attr]


def test_a_record_is_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "kitchen.yaml"
    record = SourceRecord(info(consent={"basis": "signed", "withdrawal_contact": "x@y.org"}), FILES, (".cache/*",))
    assert add(record, out) == [out]
    assert load_record(out).digest == record.digest
    assert load_record(out).info == record.info
    with pytest.raises(ConflictError, match="the record exists"):
        add(record, out)
    monkeypatch.setattr(records, "INLINE_FILES", 1)
    written = add(record, out, replace_old=True)
    assert [path.name for path in written] == ["kitchen.yaml", "kitchen.files.jsonl"]
    assert load_record(out) == replace(record, own=load_record(out).own)
    beside = tmp_path / "kitchen.files.jsonl"
    beside.write_bytes(beside.read_bytes().replace(b"aaaa", b"aaab"))
    with pytest.raises(FormatError, match="not the one that the record was written with"):
        load_record(out)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"license": "CC BY 4.0"}, "no SPDX expression"),
        ({"creator": ""}, "blank"),
        ({"colour": "red"}, "unknown field"),
        ({"record_sha256": "ab"}, "does not stand in it"),
        ({"url": "https://me:hunter2hunter2@example.org/x"}, "source.url: an address with a credential"),
    ],
)
def test_a_record_that_cannot_be_used(tmp_path: Path, change: dict[str, str], told: str) -> None:
    out = tmp_path / "kitchen.yaml"
    add(SourceRecord(info(), FILES), out)
    document = yaml.safe_load(out.read_text())
    document["source"].update(change)
    out.write_text(yaml.safe_dump(document))
    with pytest.raises(SpecError) as caught:
        load_record(out)
    assert told in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_lists_of_digests(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"# a comment\n{digest}  ./a b.txt\n{digest.upper()} *c.bin\nSHA256 (d (1).txt) = {digest}\n"
                    f"\\{digest}  e\\nf\n")  # fmt: skip
    assert [(file.path, file.sha256) for file in read_sums(sums)] == [
        (name, digest) for name in ("a b.txt", "c.bin", "d (1).txt", "e\nf")
    ]
    sums.write_text(f"{digest}  a\n{'0' * 64}  a\n")
    with pytest.raises(SpecError, match="stands twice"):
        read_sums(sums)
    sums.write_text("d41d8cd98f00b204e9800998ecf8427e  a\n")
    with pytest.raises(SpecError, match="no digest and path"):
        read_sums(sums)


@pytest.mark.parametrize(
    ("expression", "patterns", "allowed"),
    [
        ("MIT", ("MIT",), True),
        ("MIT", ("mit",), True),
        ("CC-BY-NC-4.0", ("CC-BY-4.0",), False),
        ("CC-BY-NC-4.0", ("CC-BY-*",), True),
        ("Apache-2.0 AND LicenseRef-COCO-terms", ("Apache-2.0",), False),
        ("Apache-2.0 AND LicenseRef-COCO-terms", ("Apache-2.0", "LicenseRef-COCO*"), True),
        ("MIT OR GPL-3.0-only", ("MIT",), True),
        ("GPL-3.0-only OR MIT AND CC-BY-4.0", ("MIT",), False),
        ("(GPL-3.0-only OR MIT) AND CC-BY-4.0", ("MIT", "CC-BY-4.0"), True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ("GPL-2.0-only",), True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ("MIT",), False),
        ("CC BY 4.0", ("CC*",), True),
        ("MIT AND", ("MIT",), False),
        ("", ("MIT",), False),
    ],
)
def test_licences_are_judged_as_expressions(expression: str, patterns: tuple[str, ...], allowed: bool) -> None:
    assert license_allowed(expression, patterns) is allowed


def fields(allow: AllowSpec | None, source: SourceInfo) -> list[str]:
    return [refusal.field for refusal in refusals(allow, source)]


def test_what_a_recipe_allows() -> None:
    assert fields(None, info()) == []
    assert fields(None, info(license="unknown")) == ["license"]
    assert fields(AllowSpec(unknown=True), info(license="unknown")) == []
    strict = AllowSpec.model_validate(
        {"licenses": ["CC-BY-4.0"], "commercial": True, "consent": ["not applicable*", "signed*"],
         "deidentification": "required"}
    )  # fmt: skip
    everything = ["license", "commercial_ok", "consent", "deidentification"]
    assert fields(strict, info(license="MIT")) == everything
    assert fields(strict, info(license="unknown")) == everything
    lenient = strict.model_copy(update={"unknown": True})
    assert fields(lenient, info(license="unknown")) == []
    assert (
        fields(lenient, info(license="MIT", commercial_ok="no", consent="none", deidentification="none")) == everything
    )
    good = {"commercial_ok": "yes", "consent": {"basis": "Signed form"}}
    assert fields(strict, info(**good, deidentification="not applicable, no person is recorded")) == []
    assert fields(strict, info(**good, deidentification={"faces": "blurred", "plates": "blurred"})) == []
    assert fields(strict, info(**good, deidentification={"faces": "blurred"})) == ["deidentification"]
    assert fields(strict, info(**good, deidentification="not done")) == ["deidentification"]


def test_rows_that_tell_different_facts_are_summed_up() -> None:
    one = info(license="MIT OR Apache-2.0", commercial_ok="yes", tags=["b"], consent={"basis": "signed"})
    two = info(synthetic=True, tags=["a"], record_sha256="ab")
    told = stated_together([one, two])
    assert told["license"] == "(MIT OR Apache-2.0) AND CC-BY-4.0"
    assert (told["commercial_ok"], told["synthetic"]) == ("unknown", False), "the strictest"
    assert (told["consent"], told["withdrawal_contact"]) == ("signed; unknown", "unknown")
    assert (told["tags"], told["record_sha256"], told["creator"]) == (("a", "b"), "- ab", "unknown")
    assert stated_together([one])["license"] == "MIT OR Apache-2.0"


def test_summaries_of_before_keep_their_digest() -> None:
    names = ("source_id", "converter", "family", "license", "url", "revision", "terms_url", "consent", "commercial_ok")
    counts = dict.fromkeys(("episodes_in", "episodes_kept", "episodes_dropped", "samples"), 1)
    old = {**dict.fromkeys(names, "x"), **counts, "synthetic": False}
    assert SourceSummary.model_validate(old).canonical() == old
    new = SourceSummary.model_validate({**old, "creator": "somebody", "tags": ["a"]})
    assert new.canonical() == {**old, "creator": "somebody", "tags": ["a"]}


CREDENTIALS = [
    "s3://AKIA:hunter2hunter2@bucket/x",
    "s3:/AKIA:hunter2hunter2@bucket/x",
    "s3://AKIA:hunter2/hun+ter2@bucket/x",
    "s3://AKIA:hunter2hunter2",
    "https://me:hunter2hunter2@example.org/x",
    "https://hunter2hunter2@example.org/x",
    "https://example.org/x?a=1&token=hunter2hunter2",
    "https://example.org/x?X-Amz-Signature=hunter2hunter2",
    "https://example.org:8443/x#access_token=hunter2hunter2",
    "zip://a.csv::s3://AKIA:hunter2hunter2@bucket/x",
    "see https://example.org/?api_key=hunter2hunter2 for it",
]
PLAIN = [
    "https://example.org:8443/x@1?versionId=3#top",
    "s3://bucket/M@v0001",
    "s3://bucket@v0001",
    "ssh://git@example.org/x",
    "git@example.org:a/b",
    "hf://datasets/a/b@main",
    "zip://a.csv::s3://bucket/x.zip",
    "http://[::1]:8000/v1",
    "robosuite 1.5.2: me@example.org",
]


@pytest.mark.parametrize("text", CREDENTIALS)
def test_addresses_with_credentials_are_refused_and_not_shown(text: str) -> None:
    assert has_credential(text)
    with pytest.raises(SpecError) as caught:
        refuse_credentials({"sources": [{"path": text}]}, "a recipe")
    assert "sources.0.path: an address with a credential" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in redacted(f"cannot open {text}: refused")


@pytest.mark.parametrize("text", PLAIN)
def test_plain_addresses_pass(text: str) -> None:
    assert not has_credential(text)
    assert redacted(text) == text


def test_secrets_of_the_environment_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "hunter2hunter2")
    assert redacted("401: hunter2hunter2 is no key") == "401: *** is no key"


def test_the_current_folder_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/data/my_robot")
    monkeypatch.setenv("OLDPWD", "/data/older_robot")
    text = "no format recognises /data/my_robot/a.mov, nor /data/older_robot"
    assert redacted(text) == text


def test_a_line_of_yaml_that_is_wrong_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\nsecret: hunter2hunter2: [\n")
    with pytest.raises(SpecError, match=r"line 2, column \d+") as caught:
        api.recipe(str(path))
    assert "hunter2" not in str(caught.value)
