"""Real Kafka, Postgres and ClickHouse as child processes, without containers or root."""
