"""A chat proxy that bills its users by the token: it signs in, checks, holds, streams, settles."""
