"""The names of sessions: what fits, and that no two sessions share a key of the store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_server.errors import SessionNotFound
from hope_server.sessions.key import TENANT_PATTERN, SessionKey
from hope_server.sessions.redis_meta import index_key, journal_key, meta_key, turns_key

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
TENANTS = st.from_regex(TENANT_PATTERN, fullmatch=True)
UNFIT = ["", "a" * 65, "a b", "x}:m", "é", "a\n", "a/b", "a:b", "..", "{a}"]


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_names_are_refused(name: str) -> None:
    with pytest.raises(SessionNotFound):
        SessionKey("tenant", name)
    with pytest.raises(ValueError, match="expected a tenant"):
        SessionKey(name, "session")


@pytest.mark.parametrize("tenant", ["Acme", "acme_2", "-acme", "a" * 32])
def test_a_tenant_has_a_narrower_name(tenant: str) -> None:
    assert SessionKey("acme", tenant).session == tenant
    with pytest.raises(ValueError, match="expected a tenant"):
        SessionKey(tenant, "session")


@given(TENANTS, NAMES, TENANTS, NAMES)
def test_no_two_sessions_share_a_name(one: str, two: str, three: str, four: str) -> None:
    left, right = SessionKey(one, two), SessionKey(three, four)
    for name in (str, meta_key, journal_key, turns_key):
        assert (name(left) == name(right)) == (left == right)


@given(TENANTS, NAMES)
def test_all_keys_of_a_session_lie_in_one_slot(tenant: str, session: str) -> None:
    """Redis Cluster places a key by what stands between its first braces."""
    key = SessionKey(tenant, session)
    tags = {name(key).partition("{")[2].partition("}")[0] for name in (meta_key, journal_key, turns_key)}
    assert tags == {f"{tenant}/{session}"}
    assert index_key(tenant).partition("{")[2].partition("}")[0] == tenant
