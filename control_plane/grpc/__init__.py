"""gRPC as a surface of the control plane: it only assembles; what is done stands with the nouns."""
