-- CREATE EXTENSION searches the schemas of required extensions, too, where others
-- may have put operators that fit better than the server's own: a CHECK would call
-- them for ever, as whoever writes the row.  It puts the path back at the end.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Whoever owns the schema can put objects into it.  CREATE EXTENSION takes a schema
-- that exists as it is, so one that somebody else has prepared is refused.
DO $$
BEGIN
	IF (SELECT nspowner FROM pg_catalog.pg_namespace WHERE nspname = 'quota')
		<> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
		RAISE EXCEPTION 'schema "quota" belongs to another role'
			USING ERRCODE = '42501',
				HINT = 'Drop or rename it; CREATE EXTENSION quota makes its own.';
	END IF;
END
$$;

-- ---------------------------------------------------------------------------
-- Types and the functions that the tables need
-- ---------------------------------------------------------------------------

CREATE TYPE quota.outcome AS (
	allowed				boolean,
	remaining			numeric,
	limit_amount		numeric,
	bonus_used			numeric,
	already_processed	boolean,
	reason				text,
	metric				text,
	period				text,
	used				numeric,
	bonus_remaining		numeric,
	overage				numeric,
	cost				numeric,
	period_start		timestamptz,
	resets_at			timestamptz,
	retry_after			interval,
	event_id			uuid,
	binding_user_id		uuid,
	granted				numeric,
	reservation_id		uuid,
	shortfall			numeric
);
COMMENT ON TYPE quota.outcome IS
'The answer to one request: the decision, what is left, the binding limit, and the ledger entry that recorded it';
COMMENT ON COLUMN quota.outcome.allowed IS 'The decision';
COMMENT ON COLUMN quota.outcome.remaining IS 'Units that the binding limit has left, for the allowance with usable bonuses; NULL = unlimited; never negative';
COMMENT ON COLUMN quota.outcome.limit_amount IS 'Units that the binding limit allows in one period; NULL = unlimited, or no limit at all';
COMMENT ON COLUMN quota.outcome.bonus_used IS 'Units that bonuses paid, or would pay (check_quota); 0 in a denial';
COMMENT ON COLUMN quota.outcome.already_processed IS 'True: the first answer again, nothing was charged now';
COMMENT ON COLUMN quota.outcome.reason IS 'Why: ok, bonus, overage or shadow where granted; quota_exceeded, spend_cap, not_in_plan, idempotency_conflict, reservation_expired or other_denied where denied';
COMMENT ON COLUMN quota.outcome.metric IS 'The metric, aliases resolved';
COMMENT ON COLUMN quota.outcome.period IS 'Period of the binding limit; NULL = no limit';
COMMENT ON COLUMN quota.outcome.used IS 'Units of the binding limit used in its period';
COMMENT ON COLUMN quota.outcome.bonus_remaining IS 'Units of usable bonuses of the subject and metric';
COMMENT ON COLUMN quota.outcome.overage IS 'Units of this call beyond the allowance and the bonuses';
COMMENT ON COLUMN quota.outcome.cost IS 'What the overage of this call costs';
COMMENT ON COLUMN quota.outcome.period_start IS 'First instant of the period of the binding limit; NULL = no limit';
COMMENT ON COLUMN quota.outcome.resets_at IS 'First instant after it; NULL = never ends, or no limit';
COMMENT ON COLUMN quota.outcome.retry_after IS 'Denials: the same request succeeds after this time if nothing else happens; NULL = not by waiting alone';
COMMENT ON COLUMN quota.outcome.event_id IS 'The event in usage_events; NULL in a denial and from check_quota';
COMMENT ON COLUMN quota.outcome.binding_user_id IS 'The subject whose limit binds: the one that was named, or one of its parents; NULL = no limit';
COMMENT ON COLUMN quota.outcome.granted IS 'Units that this call moved; 0 in a denial, negative where units were given back; what would be moved (check_quota)';
COMMENT ON COLUMN quota.outcome.reservation_id IS 'The reservation that was made or resolved; NULL = none';
COMMENT ON COLUMN quota.outcome.shortfall IS 'settle_reservation: units that were used but could not be charged; NULL = not asked';

CREATE FUNCTION quota.canonical_period(p_period text) RETURNS text
	AS 'MODULE_PATHNAME', 'quota_canonical_period'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION quota.canonical_period(text) IS
'The one spelling of a period: minute, hour, day, week, month, quarter, year, lifetime, or a multiple such as "5 minutes"; raises 22023 for anything else';

CREATE FUNCTION quota.valid_time_zone(p_time_zone text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'quota_valid_time_zone'
	LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION quota.valid_time_zone(text) IS
'True for a time zone name that the server knows; raises 22023 otherwise';

CREATE FUNCTION quota.valid_limit(p_limit_amount numeric) RETURNS boolean
	AS 'MODULE_PATHNAME', 'quota_valid_limit'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION quota.valid_limit(numeric) IS
'True for a limit that can be enforced exactly: NULL (unlimited), or 0 and above with at most 6 decimals; raises 22023 otherwise';

CREATE FUNCTION quota.valid_price(p_price numeric) RETURNS boolean
	AS 'MODULE_PATHNAME', 'quota_valid_price'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION quota.valid_price(numeric) IS
'True for a price or sum of money that can be computed with exactly: NULL, or 0 and above, below 10^12, with at most 12 decimals; raises 22023 otherwise';

CREATE FUNCTION quota.clock() RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'quota_clock'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION quota.clock() IS
'The time that decisions are made at: clock_timestamp(), or the instant that quota.test_clock names';
