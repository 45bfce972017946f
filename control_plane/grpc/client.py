"""A service's methods as a Python client calls them, made from its descriptor, as the server's are."""

from __future__ import annotations

from types import SimpleNamespace

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass


def client_of(channel: grpc.Channel, service: ServiceDescriptor) -> SimpleNamespace:
    """Each method by its name, as `channel.unary_unary` makes it: called, or begun with `.future`, or with `.with_call`.

    Blocks and raises as grpc does: grpc.RpcError with the status, the reason and the request's id.
    """
    return SimpleNamespace(
        **{
            name: channel.unary_unary(
                f"/{service.full_name}/{name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            for name, method in service.methods_by_name.items()
        }
    )
