"""T3: real processes on real servers, killed, stopped, cut off and restarted by a seed; then every number is checked."""
