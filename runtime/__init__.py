"""Connections and process life: settings, Kafka, ClickHouse, Postgres, metrics, logs, shutdown."""
