"""The methods of AccountService; the modules that are named account_* put them in."""

from __future__ import annotations

from typing import Final

from control_plane.grpc.generated import account_pb2 as pb
from control_plane.grpc.methods import Methods

METHODS: Final = Methods(pb.DESCRIPTOR.services_by_name["AccountService"])
