"""Every setting, resolved once in `__main__` to one frozen value.

Each field is read from `METERLINE_<FIELD>` and, where it has one, from the plain name that other services of the
field use (`DATABASE_URL`, `KAFKA_URL`, ...). `.env.example` is generated from this model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from runtime import setting_forms

PREFIX = "METERLINE_"


def _setting(section: str, default: Any, description: str, *aliases: str, **limits: Any) -> Any:
    """A field with its section and aliases. The prefixed name wins over an alias."""
    return Field(
        default=default,
        description=description,
        json_schema_extra={"section": section, "aliases": list(aliases)},
        **limits,
    )


class SettingsError(Exception):
    """The environment does not make a valid configuration; the message names each variable and what is wrong."""


class Settings(BaseModel):
    """All of it, frozen. Build it with `load_settings()`; pass it, or the part a thing needs, down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Kafka
    kafka_url: str = _setting("Kafka", "localhost:9092", "Bootstrap servers, host:port, separated by commas.", "KAFKA_URL")
    kafka_client_id: str = _setting("Kafka", "meterline", "Name shown in the broker's logs.", "KAFKA_CLIENT_ID")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = _setting(
        "Kafka", "PLAINTEXT", "How to talk to the brokers."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = _setting(
        "Kafka", None, "SASL mechanism; needed with a SASL_* protocol."
    )
    kafka_sasl_username: str | None = _setting("Kafka", None, "SASL user.")
    kafka_sasl_password: SecretStr | None = _setting("Kafka", None, "SASL password.")
    kafka_ca_file: Path | None = _setting("Kafka", None, "PEM file of the authority that signed the brokers' certificates.")
    topic_events: str = _setting("Kafka", "usage.events", "Topic of usage events (epoch 1).", "KAFKA_TOPIC")
    topic_deltas: str = _setting("Kafka", "usage.deltas", "Topic of range deltas.")
    topic_alerts: str = _setting("Kafka", "usage.alerts", "Topic of threshold alerts.")
    topic_partitions: int = _setting("Kafka", 4, "Partitions that `topics apply` creates a topic with.", ge=1, le=1024)
    topic_replication: int = _setting("Kafka", 1, "Replicas of each partition; 3 in production.", ge=1, le=7)

    # ClickHouse
    clickhouse_url: str = _setting(
        "ClickHouse", "http://localhost:8123/meterline", "http(s)://host:port/database.", "CLICKHOUSE_URL"
    )
    clickhouse_user: str = _setting("ClickHouse", "default", "User that may write.", "CLICKHOUSE_USER")
    clickhouse_password: SecretStr = _setting("ClickHouse", SecretStr(""), "Its password.", "CLICKHOUSE_PASSWORD")
    clickhouse_read_user: str | None = _setting(
        "ClickHouse", None, "User that may only read, for what HTTP clients ask; empty: the one that may write."
    )
    clickhouse_read_password: SecretStr = _setting("ClickHouse", SecretStr(""), "Its password.")
    clickhouse_ca_file: Path | None = _setting("ClickHouse", None, "PEM file of the authority behind an https URL.")
    clickhouse_timeout_s: float = _setting("ClickHouse", 30.0, "Longest wait for one answer.", gt=0, le=600)

    # Postgres
    postgres_url: SecretStr = _setting(
        "Postgres",
        SecretStr("postgresql://localhost:5432/meterline"),
        "postgresql://user:password@host:port/database, with any libpq parameter (sslmode, sslrootcert).",
        "DATABASE_URL",
    )
    postgres_ca_file: Path | None = _setting("Postgres", None, "PEM file of the authority; sets sslmode=verify-full.")
    postgres_app_role: str | None = _setting(
        "Postgres",
        None,
        "Role that `migrate` grants the tables to, where the stages log in as another than the owner: it only adds to the audit.",
    )
    postgres_pool_max: int = _setting("Postgres", 8, "Most connections one process holds.", ge=1, le=200)
    postgres_timeout_s: float = _setting("Postgres", 5.0, "Longest wait for a connection or one statement.", gt=0, le=600)

    # Consumer
    consumer_group: str = _setting("Consumer", "meterline-consumer", "Consumer group of `meterline consume`.", "KAFKA_GROUP_ID")
    consumer_instance: str | None = _setting(
        "Consumer", None, "Static membership id, unique per process: a restart takes its partitions back at once."
    )
    range_events_max: int = _setting("Consumer", 100_000, "Most records of a cycle.", ge=1, le=1_000_000)
    range_bytes_max: int = _setting("Consumer", 32 << 20, "Most bytes of a cycle.", ge=1 << 16, le=1 << 30)
    delta_bytes_max: int = _setting("Consumer", 512 << 10, "Most bytes of one delta record.", ge=1 << 12, le=900 << 10)
    index_memory_bytes_max: int = _setting(
        "Consumer",
        1 << 30,
        "Most memory of the index of admitted keys; what is more lies in files below DATA_DIR.",
        ge=0,
        le=1 << 40,
    )
    recent_events_max: int = _setting(
        "Consumer",
        1_000_000,
        "Most admitted events kept at hand, so that one sent again is not looked up in ClickHouse; some 215 bytes each.",
        ge=0,
        le=50_000_000,
    )
    range_window_ms: int = _setting("Consumer", 50, "How long a cycle waits for more records.", ge=0, le=60_000)
    retry_give_up_s: float = _setting(
        "Consumer", 300.0, "How long a store may be away before the process leaves for its supervisor.", gt=0, le=86_400
    )

    # Aggregator
    aggregator_group: str = _setting("Aggregator", "meterline-aggregator", "Faust application id and consumer group.")
    aggregator_instance: str | None = _setting(
        "Aggregator", None, "Static membership id, unique per process: a restart takes its partitions back at once."
    )
    aggregator_batch_max: int = _setting(
        "Aggregator", 256, "Most delta records counted in one transaction; as many wait in memory.", ge=1, le=1_000
    )
    sampler_every_ms: int = _setting("Aggregator", 250, "How often the log's end is sampled for `asOf`.", ge=10, le=60_000)

    usage_types_many: int = _setting(
        "Aggregator", 1_000, "Usage types of one tenant above which a metric tells of it.", ge=1, le=1_000_000
    )

    # HTTP
    http_host: str = _setting("HTTP", "127.0.0.1", "Address to listen on.", "HOST")
    http_port: int | None = _setting(
        "HTTP", None, "Port of the one HTTP role being served; 8080 for entitlements.", "PORT", ge=0, le=65_535
    )
    http_body_max: int = _setting("HTTP", 1 << 20, "Largest request body in bytes.", ge=1 << 10, le=64 << 20)
    degraded_default: Literal["fail_closed", "fail_open", "unavailable"] = _setting(
        "HTTP",
        "fail_closed",
        "What a check answers while Postgres is away where no limit is remembered, and for a feature; unavailable: 503.",
    )
    degraded_age_max_s: int = _setting(
        "HTTP", 300, "How old what is remembered of a tenant may be to be answered from while Postgres is away.", ge=1, le=86_400
    )
    metrics_port: int | None = _setting(
        "HTTP", None, "Port of /metrics, /health, /ready of a stage without HTTP.", ge=0, le=65_535
    )
    cors_origin: str = _setting("HTTP", "", "Origins a browser may call from, separated by commas; empty: none.", "CORS_ORIGIN")

    # gRPC
    grpc_account_port: int = _setting("gRPC", 50_053, "Port of AccountService; 0: a free one.", ge=0, le=65_535)
    grpc_payment_port: int = _setting("gRPC", 50_052, "Port of PaymentService; 0: a free one.", ge=0, le=65_535)
    grpc_tls_certificate_file: Path | None = _setting(
        "gRPC", None, "PEM file of the servers' certificate chain; without one calls come in plain text."
    )
    grpc_tls_key_file: Path | None = _setting("gRPC", None, "PEM file of its private key.")
    grpc_tls_client_ca_file: Path | None = _setting(
        "gRPC", None, "PEM file of the authority that client certificates must come from; empty: clients need none."
    )

    # Access
    jwt_access_secret: SecretStr | None = _setting(
        "Access", None, "Secret shared with the authentication service, for user tokens (HS256).", "JWT_ACCESS_SECRET"
    )
    clerk_jwt_key: str | None = _setting(
        "Access", None, "Public key of Clerk's session tokens (RS256), in PEM; line ends may be written \\n.", "CLERK_JWT_KEY"
    )
    clerk_issuer: str | None = _setting(
        "Access", None, "Clerk's address that session tokens name as `iss`; without a key, its published keys are used."
    )
    clerk_authorized_parties: str = _setting(
        "Access", "", "Origins that Clerk tokens may be issued to (`azp`), separated by commas; empty: any."
    )
    clerk_webhook_secret: SecretStr | None = _setting(
        "Access",
        None,
        "Signing secrets of Clerk's webhooks, whsec_..., separated by commas: an old one's too while it is changed.",
    )
    secret_encrypt_key: SecretStr | None = _setting(
        "Access",
        None,
        "Secret behind API keys; several, separated by commas, the newest first, to rotate it: see `keys rotate`.",
        "SECRET_ENCRYPT_KEY",
    )
    rate_limit_user_per_s: float = _setting("Access", 50.0, "Requests a second of one user; 0: no limit.", ge=0, le=1e6)
    rate_limit_key_per_s: float = _setting("Access", 500.0, "Requests a second of one API key; 0: no limit.", ge=0, le=1e6)
    rate_limit_service_per_s: float = _setting("Access", 0.0, "Requests a second of one service; 0: no limit.", ge=0, le=1e6)

    # Credits
    session_ttl_s: int = _setting(
        "Credits", 300, "How long a streaming session lives without a heartbeat, where it does not say.", ge=1, le=3_600
    )
    usage_deduct_services: str = _setting(
        "Credits",
        "*",
        "Services whose recorded usage is charged to the user's credits, separated by commas; *: every one; none: none.",
    )

    # Spool
    spool_dir: Path = _setting("Producer", Path(".meterline/spool"), "Where events wait on disk while Kafka is away.")
    spool_bytes_max: int = _setting("Producer", 256 << 20, "Most bytes spooled; when full, emitting is refused.", ge=1 << 16)

    # Alerts
    alert_webhook_url: str | None = _setting(
        "Alerts", None, "Where threshold alerts are posted to, signed: https, or http on this machine. None: to the topic only."
    )
    alert_webhook_secrets: SecretStr | None = _setting(
        "Alerts",
        None,
        "What they are signed with: whsec_ and base64 of 24 to 64 bytes; two, separated by a comma, while one is changed.",
    )

    # Stripe
    stripe_secret_key: SecretStr | None = _setting("Stripe", None, "Secret key, sk_test_... or sk_live_...", "STRIPE_SECRET_KEY")
    stripe_webhook_secret: SecretStr | None = _setting(
        "Stripe",
        None,
        "Signing secrets, whsec_..., separated by commas: the endpoint's, the thin events' destination's, and an old one's while "
        "it is changed.",
        "STRIPE_WEBHOOK_SECRET",
    )
    stripe_api_base: str | None = _setting("Stripe", None, "Base address of a local Stripe; empty: Stripe's own.")
    close_grace_s: float = _setting(
        "Stripe",
        1_800.0,
        "How long after a period's end it is closed: what is logged until then is still billed in it.",
        ge=0,
        le=259_200,
    )
    export_deadline_s: float = _setting(
        "Stripe",
        1_200.0,
        "How long after the grace the last total of a period is at Stripe: the pause between scheduled runs, and a run.",
        gt=0,
        le=259_200,
    )
    stripe_finalization_grace_s: float = _setting(
        "Stripe",
        3_600.0,
        "How long Stripe leaves an invoice a draft, as the account is set to; grace and deadline must end before it.",
        gt=0,
        le=259_200,
    )
    billing_pause_s: float = _setting(
        "Stripe", 5.0, "How often the billing workflow looks at an open request.", ge=0.05, le=3_600
    )
    stripe_timeout_s: float = _setting("Stripe", 20.0, "Longest wait for one answer.", gt=0, le=80)
    export_cron: str = _setting(
        "Stripe",
        "5 * * * *",
        "When `export schedule` runs: five fields of cron, in UTC. Within a period's closing hour at least once.",
    )
    export_jitter_s: float = _setting(
        "Stripe", 60.0, "A scheduled run begins up to this much later, so that many do not call at once.", ge=0, le=3_600
    )
    stripe_concurrency: int = _setting("Stripe", 8, "Most calls to Stripe at once, of one exporter.", ge=1, le=64)

    # Temporal
    temporal_address: str | None = _setting(
        "Temporal",
        None,
        "host:port of a Temporal that runs the billing workflow (extra `temporal`); empty: it runs on Postgres.",
    )
    temporal_namespace: str = _setting("Temporal", "default", "Its namespace.")

    # Lago
    payment_provider: Literal["stripe", "lago"] = _setting(
        "Lago", "stripe", "Who bills: what customers and subscriptions are made at."
    )
    lago_api_url: str = _setting("Lago", "https://api.getlago.com", "Lago's address, without /api/v1.")
    lago_api_key: SecretStr | None = _setting("Lago", None, "Its API key.", "LAGO_API_KEY")
    lago_webhook_secret: SecretStr | None = _setting(
        "Lago",
        None,
        "Keys of its webhooks' signatures (algorithm hmac), separated by commas: an old one's too while it is changed.",
    )
    lago_timeout_s: float = _setting("Lago", 20.0, "Longest wait for one answer.", gt=0, le=80)

    # Retention
    rejects_keep_days: int = _setting("Retention", 400, "Days that rejects are kept in ClickHouse; 0: for ever.", ge=0, le=36_500)
    deltas_keep_days: int = _setting("Retention", 14, "Days that the deltas topic is kept.", ge=1, le=3_650)
    events_keep_days: int = _setting("Retention", 30, "Days of the events topic; more than your backups' age.", ge=1, le=3_650)
    backup_days_max: int = _setting(
        "Retention",
        7,
        "Age in days of the oldest backup that you would restore; the events topic must be kept longer.",
        ge=1,
        le=3_649,
    )
    outbox_keep_days: int = _setting("Retention", 14, "Days that sent outbox rows are kept.", ge=1, le=3_650)
    inbox_keep_days: int = _setting("Retention", 90, "Days that finished webhook rows are kept.", ge=1, le=3_650)
    alerts_keep_days: int = _setting("Retention", 400, "Days that alerts are kept after their period.", ge=1, le=3_650)
    holds_keep_days: int = _setting("Retention", 30, "Days that finished reservations are kept.", ge=1, le=3_650)
    idempotency_keep_days: int = _setting(
        "Retention", 1, "Days that an answer is kept under its Idempotency-Key.", ge=1, le=3_650
    )
    audit_keep_days: int = _setting("Retention", 0, "Days that audit rows are kept; 0: for ever.", ge=0, le=36_500)

    # Erasure
    forget_key: SecretStr | None = _setting(
        "Erasure", None, "Key of the pseudonyms of who was forgotten, 32 characters at least. Never change it, keep it for ever."
    )
    forget_user_field: str = _setting("Erasure", "userId", "Field of an event's metadata that names the user.")

    # Life
    service_name: str = _setting("Life", "meterline", "Name in the logs.", "SERVICE_NAME")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("Life", "info", "Least level that is logged.", "LOG_LEVEL")
    log_format: Literal["auto", "json", "human"] = _setting("Life", "auto", "auto: human on a terminal, JSON elsewhere.")
    stalled_after_s: float = _setting(
        "Life",
        120.0,
        "How long a consumer or aggregator may stand still while its log moves, beyond its calls' time limits, until it leaves.",
        ge=5,
        le=86_400,
    )
    stop_within_s: float = _setting("Life", 20.0, "Longest graceful stop after SIGTERM.", gt=0, le=600)
    data_dir: Path = _setting("Life", Path(".meterline"), "Where the embedded stack and working files live.")

    # Accepted, because other services of the field have them, and reported as unused.
    redis_url: str | None = _setting("Unused", None, "Accepted and reported: nothing here uses Redis.", "REDIS_URL")
    node_env: str | None = _setting("Unused", None, "Accepted and reported.", "NODE_ENV")
    clerk_secret_key: SecretStr | None = _setting(
        "Unused", None, "Accepted and reported: Clerk's own interface is never called.", "CLERK_SECRET_KEY"
    )

    _level = field_validator("log_level", mode="before")(setting_forms.level)
    _brokers = field_validator("kafka_url")(setting_forms.brokers)
    _http_address = field_validator("clickhouse_url", "stripe_api_base", "clerk_issuer", "lago_api_url")(
        setting_forms.http_address
    )
    _webhook_address = field_validator("alert_webhook_url")(setting_forms.webhook_address)
    _webhook_secrets = field_validator("alert_webhook_secrets")(setting_forms.webhook_secrets)
    _svix_secrets = field_validator("clerk_webhook_secret")(setting_forms.webhook_secrets)
    _postgres_address = field_validator("postgres_url")(setting_forms.postgres_address)
    _forget_key = field_validator("forget_key")(setting_forms.long_key)

    @model_validator(mode="after")
    def _webhook_is_signed(self) -> Settings:
        if self.alert_webhook_url is not None and self.alert_webhook_secrets is None:
            raise ValueError(
                "METERLINE_ALERT_WEBHOOK_URL needs METERLINE_ALERT_WEBHOOK_SECRETS: alerts are never posted unsigned"
            )
        return self

    @property
    def stripe_livemode(self) -> bool:
        """Whether the Stripe key is a live one; its prefix says so."""
        key = self.stripe_secret_key
        return key is not None and not key.get_secret_value().startswith(("sk_test_", "rk_test_"))

    def webhook_secrets(self, source: Literal["stripe", "clerk", "lago"]) -> tuple[str, ...]:
        """What this sender's webhooks may be signed with, each; none where they are not configured."""
        secrets = {"stripe": self.stripe_webhook_secret, "clerk": self.clerk_webhook_secret, "lago": self.lago_webhook_secret}
        found = secrets[source]
        return () if found is None else tuple(text.strip() for text in found.get_secret_value().split(",") if text.strip())

    @property
    def alert_webhook_keys(self) -> tuple[bytes, ...]:
        """What alerts are signed with, each."""
        return () if self.alert_webhook_secrets is None else setting_forms.webhook_keys(self.alert_webhook_secrets)

    @model_validator(mode="after")
    def _sasl_is_complete(self) -> Settings:
        if self.kafka_security_protocol.startswith("SASL") and (
            self.kafka_sasl_mechanism is None or self.kafka_sasl_username is None or self.kafka_sasl_password is None
        ):
            raise ValueError(
                f"METERLINE_KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs "
                "METERLINE_KAFKA_SASL_MECHANISM, _USERNAME and _PASSWORD"
            )
        return self


def variables() -> dict[str, tuple[str, ...]]:
    """Field -> the environment variables that set it, the one that wins first."""
    names: dict[str, tuple[str, ...]] = {}
    for field, info in Settings.model_fields.items():
        extra = info.json_schema_extra
        aliases = extra["aliases"] if isinstance(extra, dict) else []
        assert isinstance(aliases, list)
        names[field] = (PREFIX + field.upper(), *(str(alias) for alias in aliases))
    return names


def load_settings(environment: dict[str, str]) -> Settings:
    """The settings of `environment`. Raises SettingsError naming every bad variable; an empty value counts as absent."""
    values: dict[str, str] = {}
    source: dict[str, str] = {}
    for field, names in variables().items():
        for name in names:
            if environment.get(name):
                values[field], source[field] = environment[name], name
                break
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            field = str(problem["loc"][0]) if problem["loc"] else ""
            told = str(problem["msg"]).removeprefix("Value error, ")
            lines.append(f"{source.get(field, field)}: {told}" if field else told)
        raise SettingsError("; ".join(lines)) from None
