"""A token appears in the answer that hands it out and nowhere else; nor does its digest, anywhere."""

from __future__ import annotations

import logging
import stat

import pytest

from supervisor.api.tokens import SecretUnusable, TokenMint, digest, key_scope, load_secret
from tests.api.house import SECRET, house, run


def test_no_token_and_no_digest_appears_anywhere_but_where_it_is_handed_out(caplog):
    caplog.set_level(logging.DEBUG)

    async def story() -> None:
        async with house() as it:
            lease = (await it.lease("a", key="k1")).json()["token"]
            ticket = (await it.lease("b", queue=True)).json()["token"]
            plain = (await it.post("/acquire", {"target": "b", "priority": 1})).json()["lease_token"]
            tokens = (lease, ticket, plain)
            answers = []
            for token in tokens:
                answers += [
                    await it.get(f"/v1/lease/{token}"),
                    await it.post(f"/v1/lease/{token}/nonsense"),
                    await it.client.put(f"/v1/lease/{token}"),
                    await it.post(f"/v1/lease/{token}/claim", {"nonsense": 1}),
                    await it.post("/acquire", {"target": "nobody", "lease_token": token}),
                    await it.post("/release", {"lease_token": token, "nonsense": 1}),
                    await it.get(f"/v1/lease/{token}", headers={"Host": "evil"}),
                    await it.get(f"/v1/why/{token}"),
                ]
            refused = await it.post(f"/v1/lease/{ticket}/claim")
            answers += [refused, await it.client.delete(f"/v1/lease/{plain}"), await it.get(f"/v1/lease/{plain}")]
            for path in ("/status", "/v1/status", "/v1/targets", "/v1/targets/a", "/readyz", "/v1/why/a"):
                answers.append(await it.get(path))
            answers.append(await it.get("/v1/events?after=0&limit=1000"))
            digests = [*map(digest, tokens), key_scope("local", "k1")]
            for answer in answers:
                shown = answer.text + str(answer.headers)
                assert not [secret for secret in (*tokens, *digests) if secret in shown], (answer.url, shown)
            for record in caplog.records:
                if record.name.startswith(("supervisor", "uvicorn")):
                    assert not [secret for secret in (*tokens, *digests) if secret in record.getMessage()]
            # Digests are in the journal, and that is all there is.
            assert any(digests[0] in repr(fact) for fact in it.box.disk.facts)
            assert not any(token in repr(fact) for fact in it.box.disk.facts for token in tokens)

    run(story())


def test_tokens_and_ids_are_unlike_each_other_and_hard_to_guess():
    mint = TokenMint(SECRET)
    tokens = {mint.new_token() for _ in range(100)} | {mint.derived_token("c", "k", mint.new_id()) for _ in range(100)}
    assert len(tokens) == 200
    assert {len(token) for token in tokens} == {43}
    ids = {mint.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(id_) == 14 and id_.startswith("l_") for id_ in ids)


def test_no_command_line_takes_a_token_for_an_option():
    mint = TokenMint(SECRET)
    tokens = [mint.derived_token("c", "k", str(number)) for number in range(1_000)]
    assert not [token for token in (*tokens, *(mint.new_token() for _ in range(1_000))) if token.startswith("-")]


def test_a_derived_token_depends_on_secret_caller_key_and_lease():
    def of(secret: bytes = SECRET, caller: str = "c", key: str = "k", id_: str = "l") -> str:
        return TokenMint(secret).derived_token(caller, key, id_)

    assert of() == of()
    assert len({of(), of(b"x" * 32), of(caller="d"), of(key="m"), of(id_="n")}) == 5


def test_the_secret_is_made_once_and_closed_to_others(tmp_path):
    secret = load_secret(tmp_path)
    assert len(secret) == 32
    assert load_secret(tmp_path) == secret
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_what_a_crash_left_behind_while_making_it_does_no_harm(tmp_path):
    (tmp_path / "secret.new").write_bytes(b"half")
    assert len(load_secret(tmp_path)) == 32
    assert not (tmp_path / "secret.new").exists()


def test_a_secret_that_others_could_read_is_closed_to_them(tmp_path, caplog):
    load_secret(tmp_path)
    (tmp_path / "secret").chmod(0o644)
    load_secret(tmp_path)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert "could be read by others" in caplog.text


@pytest.mark.parametrize("damage", ["short", "folder", "no folder"])
def test_a_secret_that_cannot_be_one_is_refused_with_what_to_do(tmp_path, damage):
    where = tmp_path
    if damage == "short":
        (tmp_path / "secret").write_bytes(b"short")
    elif damage == "folder":
        (tmp_path / "secret").mkdir()
    else:
        where = tmp_path / "missing"
    with pytest.raises(SecretUnusable) as caught:
        load_secret(where)
    assert caught.value.hint
