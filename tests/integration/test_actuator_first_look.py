"""The real service and domains that their owner runs already: every membership that it publishes counts them."""

from pathlib import Path

from tests.integration.actuator_fakes import Stand, running


def test_every_membership_after_the_first_look_counts_the_domains_that_run(tmp_path: Path) -> None:
    group = {"kind": "existing", "prefix": "web-", "address_source": "static", "addresses": {"web-0000": "127.0.0.1"}}
    stand = Stand(tmp_path, {"web": group})
    stand.host.by_name |= {name: running(name) for name in ("web-0000", "web-0001", "web-0002")}
    stand.start()
    try:
        stand.run_until(lambda: any(len(body.members) == 3 for body in stand.memberships()))
    finally:
        stand.close()
    looked = [body for body in stand.memberships() if not body.unreachable_hosts]
    assert {len(body.members) + body.adoptable for body in looked} == {3}
