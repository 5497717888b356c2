"""`lipsync key`: what it prints where, and that nobody else can read a key."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import grpc

from lipsync_cli.failures import sentence
from lipsync_client import LipsyncError
from service_kit.callers.key_file import read_key_file
from service_kit.callers.keys import digest, key_id_of
from service_kit.limits.settings import limits_of


def test_a_key_is_made_shown_once_listed_and_revoked(run, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = run("key", "create", "alice", "--file", str(file), "--avatar", "anna-*", "--days", "30")
    assert made.exit_code == 0
    key = made.stdout.strip()
    key_id = key_id_of(key)
    assert key_id is not None
    assert key not in made.stderr
    (record,) = read_key_file(file).keys
    assert (record.id, record.caller, record.sha256) == (key_id, "alice", digest(key).hex())
    assert record.expires is not None
    assert (record.expires - record.created).days == 30
    listed = run("key", "list", "--file", str(file)).stdout
    assert "alice" in listed
    assert "anna-*" in listed
    assert key.split("_")[3] not in listed
    assert run("key", "revoke", key_id, "--file", str(file)).exit_code == 0
    assert run("key", "revoke", "--caller", "alice", "--file", str(file)).exit_code == 0
    assert json.loads(file.read_text())["revoked_callers"] == ["alice"]
    assert "no keys" not in run("key", "list", "--file", str(file)).stdout
    run("key", "create", "alice", "--file", str(file))
    assert json.loads(file.read_text())["revoked_callers"] == []


def test_a_key_may_have_limits_of_its_own(run, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    assert run("key", "create", "bob", "--file", str(file)).exit_code == 0
    made = run("key", "create", "alice", "--file", str(file), "--limit", "sessions=4", "--limit", "loads_per_hour=none")
    assert made.exit_code == 0
    assert run("key", "create", "carol", "--file", str(file)).exit_code == 0  # the file is written anew
    kept = {record.caller: dict(limits_of(record.limits)) for record in read_key_file(file).keys}
    assert kept == {"bob": {}, "alice": {"sessions": 4, "loads_per_hour": None}, "carol": {}}
    assert "sessions=4 loads_per_hour=none" in " ".join(run("key", "list", "--file", str(file)).stdout.split())


def test_a_key_in_a_file_is_for_its_owner_alone(run, tmp_path: Path) -> None:
    file, out = tmp_path / "keys.json", tmp_path / "alice.key"
    made = run("key", "create", "alice", "--file", str(file), "--out", str(out))
    assert made.stdout == ""
    assert out.stat().st_mode & 0o777 == 0o600
    assert key_id_of(out.read_text().strip()) in read_key_file(file).by_id
    again = run("key", "create", "bob", "--file", str(file), "--out", str(out))
    assert again.exit_code == 1
    assert "File exists" in again.stderr
    assert [record.caller for record in read_key_file(file).keys] == ["alice"]


def test_keys_of_services_are_made_where_they_are_missing(run, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    made = run("key", "services", folder)
    assert made.exit_code == 0
    files = [folder / name for name in ("compositing/api.key", "gateway/api.key", "gateway/tickets.secret")]
    assert made.stdout.splitlines() == [f"made {file}" for file in files]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert all(file.parent.stat().st_mode & 0o777 == 0o700 for file in files)
    known = read_key_file(folder / "known" / "keys.json")
    callers = {known.by_id[key_id_of(file.read_text().strip()) or ""].caller: file.parent.name for file in files[:2]}
    assert callers == {"compositing": "compositing", "gateway": "gateway"}
    before = [file.read_text() for file in files]
    files[1].write_text("")  # as a power failure leaves it
    files[2].unlink()
    assert run("key", "services", folder).stdout.splitlines() == [f"made {file}" for file in files[1:]]
    assert "already" in run("key", "services", folder).stdout
    after = [file.read_text() for file in files]
    assert after[0] == before[0]
    assert key_id_of(after[1].strip()) in read_key_file(folder / "known" / "keys.json").by_id


def test_users_of_the_store_follow_the_password(run, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    users, password = folder / "store" / "users.acl", folder / "compositing" / "store.password"
    assert run("key", "services", folder).exit_code == 0
    assert not users.parent.exists()
    assert f"made {users}" in run("key", "services", folder, "--shared-limits").stdout
    first = users.read_text()
    password.unlink()
    assert f"made {users}" in run("key", "services", folder, "--shared-limits").stdout
    assert f"#{sha256(password.read_text().strip().encode()).hexdigest()} " in users.read_text()
    assert users.read_text() != first


def test_mistakes_are_told_in_one_sentence(run, tmp_path: Path) -> None:
    file = str(tmp_path / "keys.json")
    for arguments, said in (
        (("create", "a b"), "caller"),
        (("create", "../etc"), "caller"),
        (("create", "bob", "--scope", "root"), "scopes"),
        (("create", "bob", "--avatar", "a/b"), "avatars"),
        (("create", "bob", "--limit", "sessions"), "NAME=NUMBER"),
        (("create", "bob", "--limit", "sessions=-1"), "limits.sessions"),
        (("create", "bob", "--limit", "frames=4"), "limits.frames"),
        (("revoke", "nobody"), "there is no key with the id 'nobody': `lipsync key list` shows the ids"),
        (("revoke", "--caller", "a b"), "no name of a caller"),
        (("list",), ""),
    ):
        result = run("key", *arguments, "--file", file)
        assert result.exit_code == 1
        assert said in result.stderr
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
    assert run("key", "revoke", "--file", file).exit_code == 2
    assert run("key", "create", "bob", "--file", str(tmp_path / "none" / "keys.json")).exit_code == 1


def test_a_key_for_a_client_is_read_from_a_file_or_the_environment(run, tmp_path: Path, monkeypatch) -> None:
    bad = tmp_path / "bad.key"
    bad.write_text("two words")
    for arguments in (("--api-key-file", str(bad)), ("--api-key-file", str(tmp_path / "none"))):
        result = run("sessions", "list", "--server", "127.0.0.1:1", *arguments)
        assert result.exit_code == 2
        assert "two words" not in result.stderr
    monkeypatch.setenv("LIPSYNC_API_KEY", "two words")
    assert run("sessions", "list", "--server", "127.0.0.1:1").exit_code == 2


def test_a_call_without_a_key_tells_how_commands_take_one() -> None:
    error = LipsyncError(grpc.StatusCode.UNAUTHENTICATED, "send an API key", from_server=True)
    assert sentence(error) == "the server answered UNAUTHENTICATED: send an API key (--api-key-file FILE, or LIPSYNC_API_KEY)"
