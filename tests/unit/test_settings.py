"""Settings: from the environment, once, or an error that names the variable."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from runtime.settings import PREFIX, Settings, SettingsError, load_settings, variables

# The names that other services of the field use, as the contract lists them.
ALIASES = {
    "DATABASE_URL": "postgres_url",
    "CLICKHOUSE_URL": "clickhouse_url",
    "CLICKHOUSE_USER": "clickhouse_user",
    "CLICKHOUSE_PASSWORD": "clickhouse_password",
    "KAFKA_URL": "kafka_url",
    "KAFKA_CLIENT_ID": "kafka_client_id",
    "KAFKA_TOPIC": "topic_events",
    "KAFKA_GROUP_ID": "consumer_group",
    "STRIPE_SECRET_KEY": "stripe_secret_key",
    "STRIPE_WEBHOOK_SECRET": "stripe_webhook_secret",
    "JWT_ACCESS_SECRET": "jwt_access_secret",
    "CLERK_JWT_KEY": "clerk_jwt_key",
    "SECRET_ENCRYPT_KEY": "secret_encrypt_key",
    "SERVICE_NAME": "service_name",
    "HOST": "http_host",
    "PORT": "http_port",
    "LOG_LEVEL": "log_level",
    "CORS_ORIGIN": "cors_origin",
    "REDIS_URL": "redis_url",
    "NODE_ENV": "node_env",
}


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load_settings({}) == Settings()
    assert Settings().kafka_url == "localhost:9092"
    assert Settings().topic_events == "usage.events"


def test_an_empty_value_counts_as_absent() -> None:
    assert load_settings({"METERLINE_KAFKA_URL": "", "KAFKA_URL": "broker:1"}).kafka_url == "broker:1"
    assert load_settings({"METERLINE_HTTP_PORT": ""}).http_port is None


@pytest.mark.parametrize(("alias", "field"), sorted(ALIASES.items()))
def test_an_alias_sets_its_setting_and_loses_to_the_prefixed_name(alias: str, field: str) -> None:
    aliased, own = {
        "PORT": ("4321", "1234"),
        "KAFKA_URL": ("a:1", "b:2"),
        "CLICKHOUSE_URL": ("http://a", "http://b"),
        "DATABASE_URL": ("postgresql://a", "postgresql://b"),
    }.get(alias, ("error", "debug"))
    name = PREFIX + field.upper()
    assert variables()[field][0] == name
    assert _plain(getattr(load_settings({alias: aliased}), field)) == aliased
    assert _plain(getattr(load_settings({alias: aliased, name: own}), field)) == own


def test_no_name_sets_two_settings() -> None:
    names = [name for names in variables().values() for name in names]
    assert len(names) == len(set(names))


def test_every_setting_has_a_section_and_a_description_that_ends_like_a_sentence() -> None:
    for field, info in Settings.model_fields.items():
        assert isinstance(info.json_schema_extra, dict)
        assert info.json_schema_extra["section"], field
        assert info.description, field
        assert info.description.endswith((".", "...")) or "," in info.description, field


def test_every_number_has_a_lower_bound() -> None:
    for field, info in Settings.model_fields.items():
        if info.annotation in (int, float, int | None):
            assert any(hasattr(limit, "ge") or hasattr(limit, "gt") for limit in info.metadata), field


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().kafka_url = "other:9092"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"METERLINE_TOPIC_PARTITIONS": "0"}, "METERLINE_TOPIC_PARTITIONS: "),
        ({"METERLINE_TOPIC_PARTITIONS": "many"}, "METERLINE_TOPIC_PARTITIONS: "),
        ({"METERLINE_RANGE_EVENTS_MAX": "2000000"}, "METERLINE_RANGE_EVENTS_MAX: "),
        ({"PORT": "70000"}, "PORT: "),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: "),
        ({"METERLINE_POSTGRES_TIMEOUT_S": "0"}, "METERLINE_POSTGRES_TIMEOUT_S: "),
        ({"METERLINE_KAFKA_SECURITY_PROTOCOL": "TLS"}, "METERLINE_KAFKA_SECURITY_PROTOCOL: "),
    ],
)
def test_a_wrong_value_is_refused_under_the_name_that_set_it(environment: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(environment)
    assert str(refused.value).startswith(said)


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"METERLINE_TOPIC_PARTITIONS: .*; PORT: "):
        load_settings({"METERLINE_TOPIC_PARTITIONS": "0", "PORT": "-1"})


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_sasl_without_a_user_is_refused_with_what_is_missing(protocol: str) -> None:
    with pytest.raises(SettingsError, match="METERLINE_KAFKA_SASL_MECHANISM, _USERNAME and _PASSWORD"):
        load_settings({"METERLINE_KAFKA_SECURITY_PROTOCOL": protocol, "METERLINE_KAFKA_SASL_USERNAME": "ada"})


def test_a_level_is_taken_in_capitals_and_by_its_short_name() -> None:
    assert load_settings({"LOG_LEVEL": "INFO"}).log_level == "info"
    assert load_settings({"LOG_LEVEL": "WARN"}).log_level == "warning"


def test_secrets_do_not_show() -> None:
    secrets = {
        "METERLINE_KAFKA_SASL_PASSWORD": "hush-1",
        "CLICKHOUSE_PASSWORD": "hush-2",
        "DATABASE_URL": "postgresql://u:hush-3@h/d",
        "STRIPE_SECRET_KEY": "sk_test_hush-4",
        "STRIPE_WEBHOOK_SECRET": "whsec_hush-5",
    }
    settings = load_settings(secrets)
    assert "hush" not in repr(settings)
    assert "hush" not in settings.model_dump_json()


def test_paths_are_paths() -> None:
    assert load_settings({"METERLINE_SPOOL_DIR": "/var/spool/meterline"}).spool_dir == Path("/var/spool/meterline")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(
            ("METERLINE_KAFKA_URL", value)
            for value in ("broker", "broker:", "broker:x", "broker:99999", ":1", "kafka://a:1", "a:1,,b:1", "a:1,b")
        ),
        *(
            ("METERLINE_CLICKHOUSE_URL", value)
            for value in ("localhost:8123", "ftp://a", "http://", "http://a:x", "tcp://a:9000")
        ),
        *(
            ("METERLINE_POSTGRES_URL", value)
            for value in ("foo", "localhost:5432", "http://a/b", "postgresql://u:hidden@a:port/d")
        ),
        ("DATABASE_URL", "mysql://u:hidden@a/b"),
        ("METERLINE_STRIPE_API_BASE", "localhost:1"),
    ],
)
def test_an_address_that_is_none_is_refused_by_the_name_of_its_variable(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({variable: value})
    assert str(refused.value).startswith(f"{variable}: ")
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(("METERLINE_KAFKA_URL", value) for value in ("a:1", "a:1,b:2", "a:1, b:2", "[::1]:9092", "kafka.example.com:9092")),
        *(("METERLINE_CLICKHOUSE_URL", value) for value in ("http://a", "https://a.example:8443/db", "http://u:p@a:1/")),
        *(
            ("METERLINE_POSTGRES_URL", value)
            for value in (
                "postgresql://a/b",
                "postgres://u:p@a:1/b?sslmode=require",
                "postgresql:///b?host=/run",
                "host=a dbname=b",
            )
        ),
        ("METERLINE_POSTGRES_URL", "postgresql://u:p@a:1,b:2/d"),
        ("METERLINE_STRIPE_API_BASE", "http://127.0.0.1:12111"),
    ],
)
def test_an_address_in_each_form_that_its_client_takes_is_accepted(variable: str, value: str) -> None:
    settings = load_settings({variable: value})
    assert _plain(getattr(settings, variable.removeprefix("METERLINE_").lower())) == value
