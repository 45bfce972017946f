"""What the system runs on."""
