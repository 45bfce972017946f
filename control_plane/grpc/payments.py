"""The methods of PaymentService; the modules that are named payment_* put them in."""

from __future__ import annotations

from typing import Final

from control_plane.grpc.generated import payment_pb2 as pb
from control_plane.grpc.methods import Methods

METHODS: Final = Methods(pb.DESCRIPTOR.services_by_name["PaymentService"])
