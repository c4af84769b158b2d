import json
import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from deployments.access.api_keys import ApiKeys
from tests.deployments.manual_clock import ManualClock
from zimage_models.errors import InvalidRequest

SECRET = "sk-correct-horse"
VARIABLE = "ZIMAGE_TEST_KEYS"


def write(path: Path, *entries: object) -> None:
    # A new inode each time, as editors and mounted secrets do it.
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(entries))
    fresh.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    write(path, {"name": "shop", "key": SECRET, "requests_per_minute": 60, "max_concurrent": 4})
    return path


def names(keys: ApiKeys, *presented: str) -> list[str | None]:
    return [key.name if (key := keys.identify(text)) else None for text in presented]


def test_key_from_a_file_brings_its_limits(path: Path) -> None:
    keys = ApiKeys(path=path, environment_variable=None)
    key = keys.identify(SECRET)
    assert keys.enabled
    assert key is not None
    assert (key.name, key.requests_per_minute, key.max_concurrent) == ("shop", 60, 4)
    assert names(keys, SECRET[:-1], SECRET + "x", "", "shop", "\udcff", "é") == [None] * 6


@pytest.mark.parametrize("digest_in", [str.lower, str.upper])
def test_yaml_with_a_digest_instead_of_the_key(tmp_path: Path, digest_in: Callable[[str], str]) -> None:
    path = tmp_path / "keys.yaml"
    digest = digest_in(sha256(b"geheim").hexdigest())
    path.write_text(f"- name: a\n  key_sha256: {digest}\n- {{name: b, key: other}}\n")
    keys = ApiKeys(path=path, environment_variable=None)
    assert names(keys, "geheim", "other", sha256(b"geheim").hexdigest()) == ["a", "b", None]


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "alice=k1, bob = k=2 ,plain,cGFkZGVk==")
    keys = ApiKeys(path=None, environment_variable=VARIABLE)
    assert names(keys, "k1", "k=2", "alice=k1") == ["alice", "bob", None]
    assert names(keys, "plain", "cGFkZGVk==") == [
        f"key-{sha256(text).hexdigest()[:8]}" for text in (b"plain", b"cGFkZGVk==")
    ]


def test_file_and_environment_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "ops=k1")
    assert names(ApiKeys(path=path, environment_variable=VARIABLE), "k1", SECRET) == ["ops", "shop"]


@pytest.mark.parametrize("value", [None, "", " "])
def test_no_key_configured_is_not_enabled(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, value)
    keys = ApiKeys(path=None, environment_variable=VARIABLE)
    assert not keys.enabled
    assert keys.identify("") is None
    assert not ApiKeys(path=None, environment_variable=None).enabled


@pytest.mark.parametrize(
    ("value", "message"),
    [(",", "entry 0 is empty"), ("a=k,", "entry 1 is empty"), ("a=k,a=l", "a name"), ("a=k,b=k", "a key")],
)
def test_broken_environment_is_refused(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(InvalidRequest, match=message):
        ApiKeys(path=None, environment_variable=VARIABLE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "at least 1 item"),
        ("", "valid list"),
        (f"{SECRET}: shop", "valid list"),
        (f"- {SECRET}: {SECRET}", "0: Extra inputs|0: name: Field required"),
        (f"- {{name: a, key: {SECRET}, rpm: 5}}", "0: Extra inputs"),
        (f"- {{name: a, key: {SECRET}, requests_per_minute: 0}}", "0: requests_per_minute: .* greater than"),
        (f"- {{name: a, key: [{SECRET}]}}", "0: key: .* valid string"),
        (f"- {{name: a, key_sha256: {SECRET}}}", "0: key_sha256: not a sha256 of 64 hexadecimal digits$"),
        (f"- {{name: a, key: {SECRET}, key_sha256: {'a' * 64}}}", "exactly one of key and key_sha256"),
        ("- {name: a}", "exactly one of key and key_sha256"),
        ("- {name: a, key: ''}", "0: key: .* at least 1"),
        (f"- {{name: a, key: {SECRET}}}\n- {{name: a, key: other}}", "a name is given twice"),
        (f"- {{name: a, key: {SECRET}}}\n- {{name: b, key: {SECRET}}}", "a key is given twice"),
        (f"- {{name: a, key: {SECRET}", "not YAML"),
        (f"- {{name: 2024-99-99, key: {SECRET}}}", "not YAML"),
    ],
)
def test_broken_file_is_refused_without_its_contents(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=message) as refusal:
        ApiKeys(path=path, environment_variable=None)
    assert refusal.value.field == "api_keys"
    assert SECRET not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot read .*absent.json: No such file"):
        ApiKeys(path=tmp_path / "absent.json", environment_variable=None)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InvalidRequest, match="not YAML or JSON in UTF-8"):
        ApiKeys(path=tmp_path / "binary", environment_variable=None)


def test_changed_file_is_read_again_at_most_once_a_second(path: Path) -> None:
    clock = ManualClock()
    keys = ApiKeys(path=path, environment_variable=None, clock=clock)
    write(path, {"name": "new", "key": "k2"})
    clock.now = 0.9
    assert names(keys, SECRET, "k2") == ["shop", None]
    clock.now = 1.0
    assert names(keys, SECRET, "k2") == [None, "new"]


@pytest.mark.parametrize("damage", ["broken", "emptied", "deleted"])
def test_damaged_file_keeps_the_old_keys_and_is_logged_once(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    keys = ApiKeys(path=path, environment_variable=None, clock=clock)
    match damage:
        case "broken":
            path.write_text(f'[{{"name": "leak", "key": "{SECRET}"')
        case "emptied":
            path.write_text("[]")
        case "deleted":
            path.unlink()
    with caplog.at_level(logging.ERROR):
        for clock.now in (1.0, 2.0, 3.0):
            assert names(keys, SECRET) == ["shop"]
    assert keys.enabled
    assert len(caplog.records) == 1
    assert SECRET not in caplog.text
    write(path, {"name": "mended", "key": "k2"})
    clock.now = 4.0
    assert names(keys, "k2") == ["mended"]


def test_keys_are_not_kept(path: Path) -> None:
    keys = ApiKeys(path=path, environment_variable=None)
    key = keys.identify(SECRET)
    assert key is not None
    assert SECRET not in repr(vars(keys)) + repr(key)
    assert key.digest.hex() not in repr(key)
    assert repr(key.digest) not in repr(key)
