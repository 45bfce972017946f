"""The tables that the control plane reads and writes with SQLAlchemy Core; each noun declares its own in its repository.

The migrations in `store/` make them; a test holds every declaration equal to the migrated database.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

METADATA: Final = MetaData()
