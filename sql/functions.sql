-- ---------------------------------------------------------------------------
-- Functions in C: the engine's entry points and what the SQL functions need
-- ---------------------------------------------------------------------------

-- What reads limits is PARALLEL UNSAFE: it needs the newest state of them, and no
-- snapshot of that can be taken while a parallel plan runs.

-- Consuming ------------------------------------------------------------------

CREATE FUNCTION quota.check_and_consume_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_check_and_consume_quota'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.check_and_consume_quota(uuid, text, numeric, text, jsonb) IS
'Decide and record in the caller''s transaction: grants p_amount of p_metric to p_user_id if every limit has room, or returns a denial; the same idempotency key charges once';

CREATE FUNCTION quota.require_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_require_quota'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.require_quota(uuid, text, numeric, text, jsonb) IS
'As check_and_consume_quota, but a denial raises QU001 (which rolls back its own audit row)';

CREATE FUNCTION quota.check_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_check_quota'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.check_quota(uuid, text, numeric) IS
'What check_and_consume_quota would decide now, without writing anything; used and remaining tell the present state; works on a standby';

CREATE FUNCTION quota.consume_up_to(
	p_user_id uuid,
	p_metric text,
	p_amount numeric,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_consume_up_to'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.consume_up_to(uuid, text, numeric, text, jsonb) IS
'As check_and_consume_quota, but takes what is left if that is less than p_amount: granted tells how much; a denial where nothing is left';

CREATE FUNCTION quota.consume_quotas(
	p_user_id uuid,
	p_requests jsonb,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS SETOF quota.outcome
	AS 'MODULE_PATHNAME', 'quota_consume_quotas'
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 5;
COMMENT ON FUNCTION quota.consume_quotas(uuid, jsonb, text, jsonb) IS
'Charges several metrics of a subject, {"metric": amount, ...}, all or nothing: one row for each metric, by name; where one is denied, those that had room say other_denied';

CREATE FUNCTION quota.consume_quota_batch(
	p_user_ids uuid[],
	p_metrics text[],
	p_amounts numeric[] DEFAULT NULL,
	p_idempotency_keys text[] DEFAULT NULL)
	RETURNS SETOF quota.outcome
	AS 'MODULE_PATHNAME', 'quota_consume_quota_batch'
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION quota.consume_quota_batch(uuid[], text[], numeric[], text[]) IS
'Independent requests in one call: one row for each, in their order, some granted and some denied; amounts NULL = 1 each';

-- Setting aside, and giving back -------------------------------------------------

CREATE FUNCTION quota.reserve_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1,
	p_ttl interval DEFAULT '5 minutes',
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_reserve_quota'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.reserve_quota(uuid, text, numeric, interval, text, jsonb) IS
'Sets units aside for work that is about to be done: nobody else can have them until they are settled or canceled, or p_ttl (1 second to 24 hours) is over';

CREATE FUNCTION quota.settle_reservation(
	p_reservation_id uuid,
	p_actual numeric DEFAULT NULL)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_settle_reservation'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.settle_reservation(uuid, numeric) IS
'Charges what was used of a reservation (NULL = all of it, 0 = nothing) and lets the rest go; what was used beyond it is charged, too, or, where there is no room, told as the shortfall; the same call again gets the same answer, another one raises QU004';

CREATE FUNCTION quota.cancel_reservation(
	p_reservation_id uuid)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_cancel_reservation'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.cancel_reservation(uuid) IS
'Lets a reservation go without charging anything; the same call again gets the same answer, after settling it raises QU004';

CREATE FUNCTION quota.refund_quota(
	p_event_id uuid,
	p_amount numeric DEFAULT NULL,
	p_reason text DEFAULT NULL)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_refund_quota'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.refund_quota(uuid, numeric, text) IS
'Gives back units of an event, NULL = all that is left of it, to where they came from, last source first, in the period that they were charged in; raises QU005 for more than is left';

-- Gauges ---------------------------------------------------------------------------

CREATE FUNCTION quota.release_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_release_quota'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.release_quota(uuid, text, numeric, text, jsonb) IS
'Gives back units of a gauge (a file was deleted, a seat became free), at most what it has: granted tells how much, as a negative number';

CREATE FUNCTION quota.set_gauge(
	p_user_id uuid,
	p_metric text,
	p_value numeric,
	p_reason text DEFAULT NULL)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_set_gauge'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.set_gauge(uuid, text, numeric, text) IS
'Sets a gauge to the level that was measured, whatever its limit';

CREATE FUNCTION quota.enforce_quota()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'quota_enforce_quota'
	LANGUAGE C VOLATILE;
COMMENT ON FUNCTION quota.enforce_quota() IS
'Trigger for each row of any table, with the arguments (metric, subject''s column [, amount''s column]): INSERT consumes, DELETE releases a gauge, UPDATE moves; a denial raises QU001';

-- What admin acts and jobs are made of; they leave no audit row -----------------------

CREATE FUNCTION quota.adjust_account(
	p_user_id uuid,
	p_metric text,
	p_delta numeric)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_adjust_account'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.adjust_account(uuid, text, numeric) IS
'Adds p_delta, which may be negative, to what the current period has used of the allowance';

CREATE FUNCTION quota.reset_account(
	p_user_id uuid,
	p_metric text)
	RETURNS quota.outcome
	AS 'MODULE_PATHNAME', 'quota_reset_account'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.reset_account(uuid, text) IS
'Ends the current period of each window of the metric now, and begins the rest of it with nothing used';

CREATE FUNCTION quota.tidy_account(
	p_user_id uuid,
	p_metric text)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'quota_tidy_account'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.tidy_account(uuid, text) IS
'Writes what is due by itself: periods that have ended, reservations that have expired; true if there was anything';

CREATE FUNCTION quota.repay_overage(
	p_user_id uuid,
	p_metric text)
	RETURNS numeric
	AS 'MODULE_PATHNAME', 'quota_repay_overage'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.repay_overage(uuid, text) IS
'Has usable bonuses pay for overage of the current period, where the plan says so; returns the units';

CREATE FUNCTION quota.lock_accounts(
	p_user_ids uuid[],
	p_metric text)
	RETURNS void
	AS 'MODULE_PATHNAME', 'quota_lock_accounts'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.lock_accounts(uuid[], text) IS
'Locks the accounts of subjects on a metric, creating them if need be, until the transaction ends, in the order in which every call locks them';

-- Seeing ---------------------------------------------------------------------

CREATE FUNCTION quota.get_user_quota_status(
	p_user_id uuid,
	OUT metric text, OUT period text, OUT plan text,
	OUT limit_amount numeric, OUT used numeric,
	OUT bonus_remaining numeric, OUT remaining numeric,
	OUT percent_used numeric, OUT severity text,
	OUT period_start timestamptz, OUT resets_at timestamptz,
	OUT limit_user_id uuid, OUT overage numeric, OUT cost numeric, OUT held numeric)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'quota_get_user_quota_status'
	LANGUAGE C STABLE PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION quota.get_user_quota_status(uuid) IS
'One row for each limit of the subject and of its parents (limit_user_id), as the engine sees it now; severity is ok below 80 percent, warning below 95, critical below 100, else exceeded';

-- For the SQL functions ---------------------------------------------------------

CREATE FUNCTION quota.resolve_metric(p_metric text) RETURNS text
	AS 'MODULE_PATHNAME', 'quota_resolve_metric'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION quota.resolve_metric(text) IS
'The metric that a name or alias stands for; raises QU002 when it is unknown, 22023 when it is null or empty';

CREATE FUNCTION quota.checked_amount(p_amount numeric) RETURNS numeric
	AS 'MODULE_PATHNAME', 'quota_checked_amount'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION quota.checked_amount(numeric) IS
'Returns its argument if it is an amount: above 0, finite, at most 6 decimals, below 10^18; raises 22023 otherwise';

CREATE FUNCTION quota.period_length(p_period text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'quota_period_length'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION quota.period_length(text) IS
'Nominal microseconds of a period, by which the longest window of a metric is found; the largest bigint for lifetime';

CREATE FUNCTION quota.period_bounds(
	p_period text,
	p_anchor timestamptz,
	p_time_zone text,
	p_at timestamptz,
	OUT period_start timestamptz,
	OUT period_end timestamptz)
	AS 'MODULE_PATHNAME', 'quota_period_bounds'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION quota.period_bounds(text, timestamptz, text, timestamptz) IS
'The period that contains p_at, counted from p_anchor (NULL: from the calendar) in the time zone; both NULL for lifetime';

CREATE FUNCTION quota.new_id(p_at timestamptz) RETURNS uuid
	AS 'MODULE_PATHNAME', 'quota_new_id'
	LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION quota.new_id(timestamptz) IS
'A UUID version 7 for an entry made at p_at';
