"""Streaming sessions: credits are held for a stream whose length nobody knows yet, and settled when it ends."""
