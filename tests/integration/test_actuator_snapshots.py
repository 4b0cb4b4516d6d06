"""The real service and a snapshot whose file is damaged: it is thrown away, and an operator is told."""

import json
from pathlib import Path

from common.messages import Event
from services.actuator.core.seen import SeenHost
from services.actuator.images import Images
from services.actuator.snapshots import Snapshots, key_of
from tests.integration.actuator_fakes import Stand


def test_a_damaged_snapshot_is_told_by_a_note_and_an_event(tmp_path: Path) -> None:
    stand = Stand(tmp_path, {"web": {"prefix": "web-", "warm": {"start": "clone"}}})
    group, network = stand.config.groups["web"], stand.config.network
    template = Images(tmp_path).of(group.image, network)
    key, _ = key_of("web", group, template, network, SeenHost("local", version=""))
    path = Snapshots(tmp_path).path("web", "local", key)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    path.with_suffix(".json").write_text(json.dumps({"format": 1, "sha256": "0" * 64, "bytes": 7}), encoding="utf-8")
    said = "the snapshot is taken anew: its file was damaged"
    stand.start()
    try:
        stand.run_until(lambda: any(said in body.notes for body in stand.memberships()))
    finally:
        stand.close()
    events = [body for body in stand.bus.published if isinstance(body, Event) and body.name == "snapshot-dropped"]
    assert [(event.group, event.host, event.text) for event in events] == [("web", "local", said)]
    assert not path.exists()
