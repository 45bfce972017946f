"""Kafka to ClickHouse: every event admitted once, by position."""
