"""Every metric of the system, once. No label ever holds a tenant or an entity: their number has no bound."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SERVICES_SHOWN_MAX = 100
OTHER = "other"

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# -- consumer ------------------------------------------------------------------------------------------------------
# Records decided, by verdict (admitted, duplicate, conflict, invalid, void). Counted when their range is committed.
VERDICTS = Counter("meterline_verdicts_total", "Records decided, by verdict.", ["verdict"])
# Conflicts by source service: a service that reuses its ids shows here. The name comes from the log, where anybody may
# write anything, so only the first SERVICES_SHOWN_MAX of a process have a label of their own.
CONFLICTS = Counter("meterline_conflicts_total", "Conflicts, by source service.", ["source_service"])
# Time of one cycle by step: decide, store, announce, commit.
CYCLE_SECONDS = Histogram("meterline_cycle_seconds", "Time of a cycle's steps.", ["step"], buckets=_FAST)
# Records of the last cycle; at the setting's maximum for long means a backlog.
CYCLE_RECORDS = Gauge("meterline_cycle_records", "Records in the last cycle.")
# Bytes that waited when it was decided, keys and headers included.
CYCLE_BYTES = Gauge("meterline_cycle_bytes", "Bytes of the records that waited for the last cycle.")
# Log end minus committed, in records, over this process's partitions.
CONSUMER_LAG = Gauge("meterline_consumer_lag_records", "Records between the committed position and the log's end.")
# Keys in the committed part of the index, and the keys that were only suspected and had to be looked up.
INDEX_KEYS = Gauge("meterline_index_keys", "Keys in the committed index of this process.")
# Bytes of the committed index's long runs, by place: memory, and disk past METERLINE_INDEX_MEMORY_BYTES_MAX.
INDEX_BYTES = Gauge("meterline_index_bytes", "Bytes of the committed index, by place.", ["place"])
# Hits of the committed index: records that repeat a row still at hand byte by byte (repeated), hashes that rows at hand
# settle (recent), hashes that are looked up, which costs a block a column (clickhouse).
SUSPECTS = Counter("meterline_suspects_total", "What the index knew already, by where it was compared.", ["where"])
# Records that reached the topic of an ended epoch late and were sent on to the current one: producers to be moved.
FORWARDED = Counter("meterline_forwarded_total", "Late records of an ended epoch's topic, sent on to the current topic.")

# -- every stage ---------------------------------------------------------------------------------------------------
# Tries that failed against a dependency (kafka, clickhouse, postgres, stripe) and will be repeated.
RETRIES = Counter("meterline_retries_total", "Failed tries that are repeated, by stage and dependency.", ["stage", "dependency"])

# -- aggregator ----------------------------------------------------------------------------------------------------
# Delta records by what became of them: added, skipped (already counted), recomputed.
DELTAS = Counter("meterline_deltas_total", "Delta records, by outcome.", ["outcome"])
REPAIRS = Counter("meterline_repairs_total", "Ranges counted from ClickHouse instead of from their delta.")
COUNT_SECONDS = Histogram("meterline_count_seconds", "Time of one counting transaction.", buckets=_FAST)
# Log end minus fence, in records, over all partitions.
FENCE_LAG = Gauge("meterline_fence_lag_records", "Records between the fences and the log's end.")
# What `meterline reconcile` found when it ran last, by invariant, and when that was; looked up in Postgres.
DRIFT = Gauge("meterline_drift_findings", "Findings of the last reconcile, by invariant.", ["invariant"])
RECONCILED_AT = Gauge("meterline_reconciled_timestamp_seconds", "When reconcile ran last.")
# Tenants with more usage types than METERLINE_USAGE_TYPES_MANY: most often an id that was put into the type.
TENANTS_WITH_MANY_TYPES = Gauge("meterline_tenants_with_many_usage_types", "Tenants with more usage types than is sound.")
# Rows past their time that were dropped, by table (outbox, inbox, holds, usage_alerts, idempotency_keys, audit).
ROWS_DROPPED = Counter("meterline_rows_dropped_total", "Rows dropped after their time, by table.", ["table"])
# Age of `asOf`: how far the counters are behind the log.
FRESHNESS_SECONDS = Gauge("meterline_freshness_seconds", "Age of the newest instant that the counters are known to cover.")

# -- entitlements --------------------------------------------------------------------------------------------------
# Requests by the route's own path (`/v1/billing/summaries/{tenantId}`, never a tenant's) and status; "none": no such route.
HTTP_REQUESTS = Counter("meterline_http_requests_total", "HTTP requests, by endpoint and status.", ["endpoint", "status"])
HTTP_SECONDS = Histogram("meterline_http_seconds", "Time to answer a request, by endpoint.", ["endpoint"], buckets=_FAST)
# Time of one statement, the wait for a connection included, by its file in entitlements/queries.
HTTP_QUERY_SECONDS = Histogram("meterline_http_query_seconds", "Time of a database statement.", ["query"], buckets=_FAST)
# Decisions by their reason, a closed set; those of batches too.
CHECKS = Counter("meterline_checks_total", "Entitlement checks, by reason.", ["reason"])
# Checks that one statement answered: above 1, requests share statements.
CHECKS_TOGETHER = Histogram(
    "meterline_checks_together", "Checks answered by one statement.", buckets=(1, 2, 4, 8, 16, 32, 64, 100)
)
# Events taken over HTTP by what became of them: acked, spooled, refused (the sender's fault), unavailable (ours).
USAGE_TAKEN = Counter("meterline_usage_taken_total", "Usage events received over HTTP, by outcome.", ["outcome"])
# Reservations by what became of them: reserved, refused, settled, settled_late (after their time), released, expired.
RESERVATIONS = Counter("meterline_reservations_total", "Reservations, by outcome.", ["outcome"])
# Records of the outbox by what became of the try: published, published_again (past an epoch's end), failed.
OUTBOX_RELAYED = Counter("meterline_outbox_relayed_total", "Outbox records, by outcome of the try.", ["outcome"])
# Threshold alerts by what became of them: raised; and of their webhooks: delivered, failed (tried again), dead.
ALERTS = Counter("meterline_alerts_total", "Threshold alerts and their webhooks, by outcome.", ["outcome"])
# What the relay has yet to publish. An age that grows means that Kafka is away, or that no relay runs.
OUTBOX_WAITING = Gauge("meterline_outbox_waiting_records", "Records that wait to be published.")
OUTBOX_OLDEST_SECONDS = Gauge("meterline_outbox_oldest_seconds", "Age of the oldest record that waits to be published.")

# -- gRPC ----------------------------------------------------------------------------------------------------------
# Calls by method (`/meterline.account.v1.AccountService/GetAccount`) and canonical status.
GRPC_CALLS = Counter("meterline_grpc_calls_total", "gRPC calls, by method and status.", ["method", "status"])
GRPC_SECONDS = Histogram("meterline_grpc_seconds", "Time of a gRPC call.", ["method"], buckets=_FAST)

# -- control plane -------------------------------------------------------------------------------------------------
# Streaming sessions by what became of them: initialized, finalized, aborted, expired (swept), and finalized_late or
# aborted_late: ended by their owner after they were swept. Many that expire mean clients that die, or do not settle.
SESSIONS = Counter("meterline_sessions_total", "Streaming sessions, by outcome.", ["outcome"])

# -- billing exporter ----------------------------------------------------------------------------------------------
# Ledger rows that came to a state by sending, by that state (accepted, retry_wait, rejected, ambiguous, manual).
EXPORTS = Counter("meterline_exports_total", "Exports, by the state they came to.", ["state"])
# Rows compared with Stripe's summaries, by verdict; "drift" is money.
EXPORTS_COMPARED = Counter("meterline_exports_compared_total", "Exports compared with Stripe's summaries.", ["verdict"])
# Tenants held in a run because ClickHouse and the counters differ.
EXPORTS_HELD = Counter("meterline_exports_held_total", "Tenants held because ClickHouse and the counters differ.")
# Tenants whose newest period could not be closed in the last run; any is money.
PERIODS_REFUSED = Gauge("meterline_periods_refused", "Tenants whose period cannot be closed.")
# Runs of the schedule, by how they ended: done, open (rows wait, each with its reason), failed (could not be run to the end).
EXPORT_RUNS = Counter("meterline_export_runs_total", "Scheduled runs of the exporter, by outcome.", ["outcome"])
# When the last run ended that was not `failed`, in seconds since 1970; alert when it is older than two turns of the schedule.
EXPORT_RUN_ENDED = Gauge("meterline_export_run_ended_timestamp_seconds", "When the last complete scheduled run ended.")
# Time of one meter event call to Stripe.
STRIPE_SECONDS = Histogram("meterline_stripe_seconds", "Time of one meter event call to Stripe.", buckets=_FAST)

# -- control plane -------------------------------------------------------------------------------------------------
# Webhooks by sender and what became of them: refused, received, repeated; then done, ignored, failed (tried again), dead.
WEBHOOKS = Counter("meterline_webhooks_total", "Webhooks received, by sender and outcome.", ["source", "outcome"])


class BoundedNames:
    """Names from outside as label values: the first `most` that come, and OTHER for all that come after. For one thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, name: str) -> str:
        """The name itself where it is one of the first."""
        if name not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(name)
        return name
