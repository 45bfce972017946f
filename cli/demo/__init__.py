"""The demonstration: the whole path under load and under kills, and the proof from what the stores answer."""
