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

-- Seeing ---------------------------------------------------------------------

CREATE FUNCTION quota.get_user_quota_status(
	p_user_id uuid,
	OUT metric text, OUT period text, OUT plan text,
	OUT limit_amount numeric, OUT used numeric,
	OUT bonus_remaining numeric, OUT remaining numeric,
	OUT percent_used numeric, OUT severity text,
	OUT period_start timestamptz, OUT resets_at timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'quota_get_user_quota_status'
	LANGUAGE C STABLE PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION quota.get_user_quota_status(uuid) IS
'One row for each limit of the subject, as the engine sees it now; severity is ok below 80 percent, warning below 95, critical below 100, else exceeded';

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
