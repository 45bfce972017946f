"""In which order the provider was looked at.

What was read of the provider may be applied in any order: by a request, by a webhook's worker, by a recovery, each with a
transaction of its own. So each takes a ticket BEFORE it reads, and what is on record with a later ticket is left alone.
That is enough: who learns of a change takes its ticket after the change, and so reads it; a later ticket than that one reads
it too.
"""

from __future__ import annotations

from sqlalchemy import Sequence, select

from control_plane.metadata import METADATA
from control_plane.unit import Actor, Units

OBSERVATIONS = Sequence("provider_observations", metadata=METADATA)


def ticket(units: Units, actor: Actor) -> int:
    """The next ticket, in a transaction of its own; take it before the call to the provider."""
    with units.begin(actor) as unit:
        return int(unit.sql.execute(select(OBSERVATIONS.next_value())).scalar_one())
