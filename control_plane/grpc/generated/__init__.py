"""Code made from schemas/proto by `control_plane.grpc.generating`. Change the protos, not this."""
