"""T3: the server of sessions is killed in their midst."""

from __future__ import annotations

from runtime.settings import Settings
from tests.fakes.session_storm import storm


def test_no_credit_is_lost_or_made_and_orphans_are_swept_though_the_server_is_killed(migrated: Settings) -> None:
    seen = storm(migrated, 150, users=5, clients=6, ttl_s=4, seed=1)
    assert seen.begun == 150
    assert seen.repeated > 0
