"""The exporter under fire: kills at each named point and at random, a Stripe that fails, an outage of a day; then every total."""
