-- ---------------------------------------------------------------------------
-- The consuming calls once more, in PL/pgSQL
--
-- Never installed.  It serves two ends:
--
--   oracle  It decides by the same rules on the same tables, but shares no code
--           with the library: validation, resolution of limits, period
--           arithmetic and the decision are its own.  The regress files give
--           the same output with it, and test/sql/oracle.sql sets the two
--           side by side.
--   peer    It is what one would write without C: few statements, saved plans,
--           one row lock, and a short way through the common call.  bench/
--           compares the library with it.
--
-- Of the extension it calls quota.clock() and quota.new_id() only.
--
-- Locking: a call that may be granted locks its accounts FOR NO KEY UPDATE in
-- the order of their primary key, then the bonuses that it needs, and decides
-- on what statements with a younger snapshot read after that.  So it is exact
-- in READ COMMITTED; under the two higher levels a lost race raises 40001.  A
-- call that the committed state denies is denied without a lock.
-- ---------------------------------------------------------------------------

CREATE SCHEMA quota_reference;

-- A limit and the account that counts against it
CREATE TYPE quota_reference.account AS (
	period			text COLLATE "C",
	limit_amount	numeric,
	basis			text,			-- what periods are counted from: plan_limits.anchor
	period_start	timestamptz,
	period_end		timestamptz,
	used			numeric,		-- NULL = there is no account yet
	held			numeric,
	anchor			timestamptz,
	rank			integer,		-- 1 = the longest window, which is the allowance
	is_new			boolean,		-- opened by roll()
	is_moved		boolean			-- moved on to another period by roll()
);

-- Whose request, for what, and the accounts in the order of their primary key
CREATE TYPE quota_reference.subject AS (
	metric			text COLLATE "C",
	kind			text,
	anchor			timestamptz,	-- of the subscription; NULL = there is none
	time_zone		text,
	valid_until		timestamptz,	-- when an override that counts now expires; NULL = never
	accounts		quota_reference.account[]
);

-- Periods --------------------------------------------------------------------

-- Nominal length in seconds, for telling the longest window of a metric
CREATE FUNCTION quota_reference.period_length(p_period text) RETURNS numeric
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
	SELECT coalesce(substring(p_period FROM '^\d+')::numeric, 1)
		 * CASE rtrim(substring(p_period FROM '[a-z]+'), 's')
			WHEN 'minute' THEN 60
			WHEN 'hour' THEN 3600
			WHEN 'day' THEN 86400
			WHEN 'week' THEN 7 * 86400
			WHEN 'month' THEN 30.4375 * 86400
			WHEN 'quarter' THEN 3 * 30.4375 * 86400
			WHEN 'year' THEN 365.25 * 86400
			WHEN 'lifetime' THEN 'Infinity'
			END
$$;

-- The period that contains p_at.  Period k is [anchor + k steps, anchor + k+1
-- steps), always from the original anchor, so that a monthly 31st is the 28th
-- in February and the 31st again in March.  Days and longer units are stepped
-- in local time; minutes and hours are elapsed time, whatever the local clock
-- does.  Not for lifetimes.
CREATE FUNCTION quota_reference.period_bounds(
	p_period text,
	p_anchor timestamptz,
	p_time_zone text,
	p_at timestamptz,
	OUT period_start timestamptz,
	OUT period_end timestamptz)
	LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
DECLARE
	v_unit		text := rtrim(substring(p_period FROM '[a-z]+'), 's');
	v_count		integer := coalesce(substring(p_period FROM '^\d+')::integer, 1);
	v_local		timestamp := p_at AT TIME ZONE p_time_zone;
	v_origin	timestamp;
	v_first		timestamptz;
	v_step		interval;
	v_k			integer;
BEGIN
	-- the calendar begins on a Saturday, but weeks begin on Mondays
	v_origin := coalesce(p_anchor AT TIME ZONE p_time_zone,
						 CASE WHEN v_unit = 'week' THEN timestamp '2000-01-03'
							  ELSE timestamp '2000-01-01' END);

	IF v_unit IN ('minute', 'hour') THEN
		v_first := coalesce(p_anchor, v_origin AT TIME ZONE p_time_zone);
		v_step := CASE v_unit WHEN 'minute' THEN make_interval(mins => v_count)
							  ELSE make_interval(hours => v_count) END;
		v_k := floor(extract(epoch FROM p_at - v_first) / extract(epoch FROM v_step));
		period_start := v_first + v_k * v_step;
		period_end := period_start + v_step;
		RETURN;
	END IF;

	-- k by the local date, at most one too high or too low ...
	IF v_unit IN ('day', 'week') THEN
		v_count := v_count * CASE v_unit WHEN 'week' THEN 7 ELSE 1 END;
		v_step := make_interval(days => v_count);
		v_k := floor((v_local::date - v_origin::date)::numeric / v_count);
	ELSE
		v_count := v_count * CASE v_unit WHEN 'year' THEN 12 WHEN 'quarter' THEN 3 ELSE 1 END;
		v_step := make_interval(months => v_count);
		v_k := floor((12 * (extract(year FROM v_local) - extract(year FROM v_origin))
					  + extract(month FROM v_local) - extract(month FROM v_origin)) / v_count);
	END IF;

	-- ... put right by the instants
	-- (period 0 starts at the anchor itself, whose local time may occur twice)
	LOOP
		period_start := CASE WHEN v_k = 0 AND p_anchor IS NOT NULL THEN p_anchor
						ELSE (v_origin + v_k * v_step) AT TIME ZONE p_time_zone END;
		EXIT WHEN period_start <= p_at;
		v_k := v_k - 1;
	END LOOP;
	LOOP
		v_k := v_k + 1;
		period_end := CASE WHEN v_k = 0 AND p_anchor IS NOT NULL THEN p_anchor
					  ELSE (v_origin + v_k * v_step) AT TIME ZONE p_time_zone END;
		EXIT WHEN period_end > p_at;
		period_start := period_end;
	END LOOP;
END
$$;

-- The accounts as they stand at p_now: missing ones opened, ended ones moved on.
-- Writes nothing.
CREATE FUNCTION quota_reference.roll(p_subject quota_reference.subject, p_now timestamptz)
	RETURNS quota_reference.account[]
	LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
DECLARE
	v_accounts	quota_reference.account[] := p_subject.accounts;
	a			quota_reference.account;
	v_from		timestamptz;
	v_start		timestamptz;
	v_end		timestamptz;
BEGIN
	FOR i IN 1 .. cardinality(v_accounts) LOOP
		a := v_accounts[i];
		CONTINUE WHEN a.used IS NOT NULL AND (a.period_end <= p_now) IS NOT TRUE;

		-- gauges are levels and features are facts: neither starts again
		v_start := NULL;
		v_end := NULL;
		IF p_subject.kind = 'counter' AND a.period <> 'lifetime' THEN
			-- without a subscription there is no anniversary to count from
			IF a.basis = 'first_use' OR (a.basis = 'subscription' AND p_subject.anchor IS NULL) THEN
				a.anchor := coalesce(a.anchor, p_now);
				v_from := a.anchor;
			ELSE
				v_from := CASE a.basis WHEN 'subscription' THEN p_subject.anchor END;
			END IF;
			SELECT p.period_start, p.period_end INTO v_start, v_end
			  FROM quota_reference.period_bounds(a.period, v_from, p_subject.time_zone, p_now) AS p;
		END IF;

		-- After a change of anchor the new period may reach back into the old
		-- one; that time has been counted already.
		a.period_start := greatest(coalesce(v_start, p_now), a.period_end);
		a.period_end := v_end;
		a.is_new := a.is_new OR a.used IS NULL;
		a.is_moved := NOT a.is_new;
		a.used := 0;
		a.held := coalesce(a.held, 0);
		v_accounts[i] := a;
	END LOOP;
	RETURN v_accounts;
END
$$;

-- Limits ---------------------------------------------------------------------

-- The limits in force at p_at.  Raises QU002 for an unknown metric, QU003 for an
-- unknown default plan.
CREATE FUNCTION quota_reference.resolve(p_user_id uuid, p_metric text, p_at timestamptz)
	RETURNS quota_reference.subject
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_kind		text;
	v_anchor	timestamptz;
	v_time_zone	text;
	v_accounts	quota_reference.account[];
	v_overrides	boolean;
	v_until		timestamptz;
	v_other		text;
BEGIN
	SELECT m.kind, s.anchor, s.time_zone,
		   ARRAY(SELECT ROW(l.period, l.limit_amount, l.anchor, a.period_start, a.period_end, a.used, a.held,
							a.anchor, 1, false, false)::quota_reference.account
				   FROM quota.plan_limits AS l
				   LEFT JOIN quota.usage_tracking AS a
					 ON a.user_id = p_user_id AND a.metric = l.metric AND a.period = l.period
				  WHERE l.plan = coalesce(s.plan, current_setting('quota.default_plan', true))
					AND l.metric = m.metric),
		   EXISTS (SELECT FROM quota.limit_overrides AS o
					WHERE o.user_id = p_user_id AND o.metric = m.metric)
	  INTO v_kind, v_anchor, v_time_zone, v_accounts, v_overrides
	  FROM quota.metrics AS m
	  LEFT JOIN quota.subscriptions AS s ON s.user_id = p_user_id
	 WHERE m.metric = p_metric;

	IF NOT FOUND THEN
		SELECT n.metric INTO v_other FROM quota.metric_aliases AS n WHERE n.alias = p_metric;
		IF NOT FOUND THEN
			RAISE EXCEPTION 'unknown metric "%"', p_metric
				USING ERRCODE = 'QU002',
					  HINT = 'Metrics are listed in quota.metrics, other names for them in quota.metric_aliases.';
		END IF;
		RETURN quota_reference.resolve(p_user_id, v_other, p_at);
	END IF;

	IF v_time_zone IS NULL THEN
		v_time_zone := 'UTC';
		IF cardinality(v_accounts) = 0 THEN
			v_other := current_setting('quota.default_plan', true);
			IF v_other <> '' AND NOT EXISTS (SELECT FROM quota.plans AS p WHERE p.plan = v_other) THEN
				RAISE EXCEPTION 'unknown plan "%"', v_other
					USING ERRCODE = 'QU003',
						  DETAIL = 'The setting quota.default_plan names it for subjects without a subscription.';
			END IF;
		END IF;
	END IF;

	IF v_overrides THEN
		WITH planned AS (
			SELECT l.period, l.limit_amount, l.basis,
				   row_number() OVER (ORDER BY quota_reference.period_length(l.period) DESC, l.period) = 1 AS longest
			  FROM unnest(v_accounts) AS l
		), overridden AS (
			-- one that names its window goes before one for the allowance
			SELECT DISTINCT ON (w.period) w.period, o.limit_amount, o.expires_at
			  FROM quota.limit_overrides AS o
			  CROSS JOIN LATERAL (
					SELECT coalesce(o.period, (SELECT l.period FROM planned AS l WHERE l.longest), 'lifetime')
				   ) AS w (period)
			 WHERE o.user_id = p_user_id
			   AND o.metric = p_metric
			   AND (o.expires_at IS NULL OR o.expires_at > p_at)
			 ORDER BY w.period, o.period NULLS LAST
		), limits AS (
			SELECT period,
				   CASE WHEN o.period IS NULL THEN l.limit_amount ELSE o.limit_amount END AS limit_amount,
				   coalesce(l.basis, 'calendar') AS basis,
				   o.expires_at
			  FROM planned AS l
			  FULL JOIN overridden AS o USING (period)
		)
		SELECT coalesce(array_agg(ROW(l.period, l.limit_amount, l.basis, a.period_start, a.period_end, a.used, a.held,
									  a.anchor, 1, false, false)::quota_reference.account), '{}'),
			   min(l.expires_at)
		  INTO v_accounts, v_until
		  FROM limits AS l
		  LEFT JOIN quota.usage_tracking AS a
			ON a.user_id = p_user_id AND a.metric = p_metric AND a.period = l.period;
	END IF;

	IF cardinality(v_accounts) > 1 THEN
		SELECT array_agg(ROW(w.period, w.limit_amount, w.basis, w.period_start, w.period_end, w.used, w.held,
							 w.anchor, w.nr, false, false)::quota_reference.account ORDER BY w.period)
		  INTO v_accounts
		  FROM (SELECT *, row_number() OVER (ORDER BY quota_reference.period_length(l.period) DESC, l.period) AS nr
				  FROM unnest(v_accounts) AS l) AS w;
	END IF;

	RETURN ROW(p_metric, v_kind, v_anchor, v_time_zone, v_until, v_accounts)::quota_reference.subject;
END
$$;

-- Decision -------------------------------------------------------------------

-- Bonus units that can be used at p_at
CREATE FUNCTION quota_reference.bonus_left(p_user_id uuid, p_metric text, p_at timestamptz) RETURNS numeric
	LANGUAGE plpgsql STABLE
AS $$
BEGIN
	RETURN (SELECT coalesce(sum(b.amount - b.used_amount), 0)
			  FROM quota.user_bonuses AS b
			 WHERE b.user_id = p_user_id
			   AND b.metric = p_metric
			   AND b.available
			   AND (b.expires_at IS NULL OR b.expires_at > p_at));
END
$$;

-- Decide on rolled accounts.  The answer tells the present state, and what the
-- request would take from bonuses if it is allowed.
CREATE FUNCTION quota_reference.decide(
	p_user_id uuid,
	p_subject quota_reference.subject,
	p_amount numeric,
	p_bonus numeric,
	p_now timestamptz)
	RETURNS quota.outcome
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	a			quota_reference.account;
	b			quota_reference.account;	-- the binding one so far
	v_room		numeric;					-- NULL = unlimited
	v_take		numeric := 0;
	v_retry		interval;
	b_room		numeric;
	b_retry		interval;
	v_later		numeric;
	v_allowed	boolean := true;
BEGIN
	FOREACH a IN ARRAY p_subject.accounts LOOP
		v_room := a.limit_amount - a.used - a.held;
		IF v_room < 0 THEN
			v_room := 0;
		END IF;
		IF a.rank = 1 THEN
			IF p_amount > v_room THEN
				v_take := p_amount - v_room;
			END IF;
			v_room := v_room + p_bonus;
		END IF;

		IF p_amount > v_room THEN
			-- waiting helps if the period ends and the next one has enough
			v_retry := NULL;
			IF a.period_end IS NOT NULL THEN
				v_later := CASE WHEN a.rank = 1 AND p_bonus > 0 AND p_amount > a.limit_amount
								THEN quota_reference.bonus_left(p_user_id, p_subject.metric, a.period_end)
								ELSE 0 END;
				IF p_amount <= a.limit_amount + v_later THEN
					-- in elapsed time: a "day" would have 23 or 25 hours at times
					v_retry := make_interval(secs => extract(epoch FROM a.period_end - p_now)::float8);
				END IF;
			END IF;

			-- of several denials the one that lasts longest binds
			IF v_allowed
			   OR coalesce(v_retry > b_retry, v_retry IS NULL AND b_retry IS NOT NULL)
			   OR (v_retry IS NOT DISTINCT FROM b_retry AND a.rank < b.rank)
			THEN
				b := a;
				b_room := v_room;
				b_retry := v_retry;
			END IF;
			v_allowed := false;

		-- while nothing denies, the least room binds
		ELSIF v_allowed
			  AND (b.rank IS NULL
				   OR coalesce(v_room < b_room, v_room IS NOT NULL AND b_room IS NULL)
				   OR (v_room IS NOT DISTINCT FROM b_room AND a.rank < b.rank))
		THEN
			b := a;
			b_room := v_room;
		END IF;
	END LOOP;

	-- Of several windows each has its room back by the end of its period, and by
	-- then bonuses may have expired that another one needs: the first of these
	-- times at which all have room.
	IF NOT v_allowed AND cardinality(p_subject.accounts) > 1 THEN
		SELECT make_interval(secs => extract(epoch FROM min(c.period_end) - p_now)::float8) INTO b_retry
		  FROM unnest(p_subject.accounts) AS c
		 WHERE c.period_end IS NOT NULL
		   AND NOT EXISTS (
				SELECT FROM unnest(p_subject.accounts) AS l
				 WHERE p_amount > greatest(l.limit_amount - l.held
										   - CASE WHEN l.period_end <= c.period_end THEN 0 ELSE l.used END, 0)
								  + CASE WHEN l.rank = 1
										 THEN quota_reference.bonus_left(p_user_id, p_subject.metric, c.period_end)
										 ELSE 0 END
				   AND l.limit_amount IS NOT NULL);
	END IF;

	-- no limit at all
	IF b.rank IS NULL THEN
		RETURN ROW(false, 0, NULL, 0, false, 'not_in_plan', p_subject.metric, NULL, 0, 0, 0, 0,
				   NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL)::quota.outcome;
	END IF;

	RETURN ROW(v_allowed, b_room, b.limit_amount,
			   CASE WHEN v_allowed THEN v_take ELSE 0 END,
			   false,
			   CASE WHEN v_allowed AND v_take > 0 THEN 'bonus'
					WHEN v_allowed THEN 'ok'
					WHEN b.limit_amount = 0 AND b_room = 0 THEN 'not_in_plan'
					ELSE 'quota_exceeded' END,
			   p_subject.metric, b.period, b.used, p_bonus, 0, 0,
			   b.period_start, b.period_end, b_retry, NULL,
			   p_user_id, CASE WHEN v_allowed THEN p_amount ELSE 0 END, NULL, NULL)::quota.outcome;
END
$$;

-- Limits and accounts as they stand at p_at if nothing happens until then, or at
-- the later moment that an account has reached already.
CREATE FUNCTION quota_reference.as_of(
	p_user_id uuid,
	p_metric text,
	p_at timestamptz,
	OUT moment timestamptz,
	OUT subject quota_reference.subject)
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	a	quota_reference.account;
BEGIN
	moment := p_at;
	LOOP
		subject := quota_reference.resolve(p_user_id, p_metric, moment);
		FOREACH a IN ARRAY subject.accounts LOOP
			moment := greatest(moment, a.period_start);
		END LOOP;
		EXIT WHEN (subject.valid_until <= moment) IS NOT TRUE;
	END LOOP;
	subject.accounts := quota_reference.roll(subject, moment);
END
$$;

-- The answer to a denied request, looking beyond the end of overrides: when one
-- ends before the request would be granted, it is decided again as of then.
CREATE FUNCTION quota_reference.look_ahead(
	p_user_id uuid,
	p_subject quota_reference.subject,
	p_amount numeric,
	p_now timestamptz,
	p_out quota.outcome)
	RETURNS quota.outcome
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_at		timestamptz := p_subject.valid_until;
	v_state		record;
	v_later		quota_reference.subject;
	v_decided	quota.outcome;
BEGIN
	IF v_at IS NULL OR v_at - p_now > interval '365250 days' OR p_now + p_out.retry_after < v_at THEN
		RETURN p_out;
	END IF;
	v_state := quota_reference.as_of(p_user_id, p_subject.metric, v_at);
	v_at := v_state.moment;
	v_later := v_state.subject;
	v_decided := quota_reference.decide(p_user_id, v_later, p_amount,
										quota_reference.bonus_left(p_user_id, v_later.metric, v_at), v_at);
	IF v_decided.allowed THEN
		v_decided.retry_after := '0';
	ELSE
		v_decided := quota_reference.look_ahead(p_user_id, v_later, p_amount, v_at, v_decided);
	END IF;
	p_out.retry_after := make_interval(secs => extract(epoch FROM v_at - p_now)::float8) + v_decided.retry_after;
	RETURN p_out;
END
$$;

-- Requests -------------------------------------------------------------------

-- Raises 22023 with what is wrong with a request, if anything is
CREATE FUNCTION quota_reference.validate(
	p_user_id uuid,
	p_metric text,
	p_amount numeric,
	p_idempotency_key text,
	p_metadata jsonb)
	RETURNS void
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_fault	text := CASE
		WHEN p_user_id IS NULL THEN 'user must not be null'
		WHEN p_metric IS NULL OR p_metric = '' THEN 'metric must not be null or empty'
		WHEN p_amount IS NULL THEN 'amount must not be null'
		-- NaN sorts above all numbers
		WHEN NOT (p_amount > 0 AND p_amount < 1e18) THEN 'amount must be above 0 and below 10^18'
		WHEN p_amount <> round(p_amount, 6) THEN 'amount must have at most 6 decimals'
		WHEN p_idempotency_key = '' THEN 'idempotency key must not be empty'
		WHEN jsonb_typeof(p_metadata) <> 'object' THEN 'metadata must be a JSON object'
		-- "||" returns it uncompressed
		WHEN pg_column_size(p_metadata || '{}') > 65536 THEN 'metadata must not be larger than 64 kB'
	END;
BEGIN
	IF v_fault IS NOT NULL THEN
		RAISE EXCEPTION '%', v_fault USING ERRCODE = 'invalid_parameter_value';
	END IF;
END
$$;

CREATE FUNCTION quota_reference.check_and_consume_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_subject	quota_reference.subject;
	v_metric	text;
	v_hash		bytea;
	v_first		record;
	v_now		timestamptz;
	v_bonus		numeric;
	v_out		quota.outcome;

	-- the one account of a common call
	v_period	text;
	v_limit		numeric;
	v_start		timestamptz;
	v_end		timestamptz;
	v_used		numeric;
	v_room		numeric;
	v_common	boolean;

	-- all accounts of any other call
	a			quota_reference.account;
	v_take		numeric;
	v_allowance	text;
	v_rates		text[];
	v_created	text[] := '{}';
	v_locked	boolean := false;
	v_bonuses_locked boolean := false;
BEGIN
	-- a short look at most requests, a long one at those that may be refused
	IF (p_user_id IS NOT NULL AND p_metric <> '' AND p_amount > 0 AND p_amount < 1e18 AND scale(p_amount) <= 6
		AND p_idempotency_key <> '' IS NOT FALSE AND p_metadata IS NULL) IS NOT TRUE
	THEN
		PERFORM quota_reference.validate(p_user_id, p_metric, p_amount, p_idempotency_key, p_metadata);
	END IF;

	v_subject := quota_reference.resolve(p_user_id, p_metric, quota.clock());
	v_metric := v_subject.metric;

	IF p_idempotency_key IS NOT NULL THEN
		v_hash := sha256(uuid_send(p_user_id)
						 || int4send(octet_length(v_metric))
						 || convert_to(v_metric, getdatabaseencoding())
						 || int4send(octet_length(p_idempotency_key))
						 || convert_to(p_idempotency_key, getdatabaseencoding()));
	END IF;

	-- The common call: one window, whose period is open and has room.  Bonuses
	-- are not touched, only reported.
	IF cardinality(v_subject.accounts) = 1 THEN
		a := v_subject.accounts[1];
		v_period := a.period;
		v_limit := a.limit_amount;
		IF a.used IS NOT NULL AND (a.used + a.held + p_amount > v_limit) IS NOT TRUE THEN
			SELECT t.period_start, t.period_end, t.used + p_amount, v_limit - t.held - t.used - p_amount
			  INTO v_start, v_end, v_used, v_room
			  FROM quota.usage_tracking AS t
			 WHERE t.user_id = p_user_id AND t.metric = v_metric AND t.period = v_period
			   FOR NO KEY UPDATE;
			v_now := greatest(quota.clock(), v_start);
			v_common := v_used IS NOT NULL AND (v_room < 0) IS NOT TRUE AND (v_end <= v_now) IS NOT TRUE
						AND (v_subject.valid_until <= v_now) IS NOT TRUE;
			IF v_common AND v_hash IS NOT NULL THEN
				v_common := NOT EXISTS (SELECT FROM quota.usage_events AS e WHERE e.key_hash = v_hash);
			END IF;
			IF v_common THEN
				SELECT coalesce(sum(b.amount - b.used_amount), 0) INTO v_bonus
				  FROM quota.user_bonuses AS b
				 WHERE b.user_id = p_user_id AND b.metric = v_metric AND b.available
				   AND (b.expires_at IS NULL OR b.expires_at > v_now);

				v_out := ROW(true, v_room + v_bonus, v_limit, 0, false, 'ok', v_metric, v_period,
							 v_used, v_bonus, 0, 0, v_start, v_end, NULL, quota.new_id(v_now),
							 p_user_id, p_amount, NULL, NULL)::quota.outcome;
				WITH charge AS (
					UPDATE quota.usage_tracking AS t
					   SET used = v_used
					 WHERE t.user_id = p_user_id AND t.metric = v_metric AND t.period = v_period
				), entry AS (
					INSERT INTO quota.usage_events (id, user_id, metric, kind, amount, bonus_used, period,
													key_hash, outcome, metadata, created_at)
					VALUES (v_out.event_id, p_user_id, v_metric, 'consume', p_amount, 0, v_period,
							v_hash, CASE WHEN v_hash IS NOT NULL THEN v_out END, p_metadata, v_now)
				)
				INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
												   plan_limit, current_usage, remaining, period, action,
												   event_id, created_at)
				VALUES (quota.new_id(v_now), p_user_id, v_metric, p_amount, true, 'ok',
						v_limit, v_used, v_out.remaining, v_period, 'consume',
						v_out.event_id, v_now);
				RETURN v_out;
			END IF;
		END IF;
	END IF;

	-- Any other call: first on the committed state, which is enough for a denial,
	-- then again on the locked one.
	LOOP
		-- an account's time never runs backwards, nor does the time of a call
		v_now := greatest(v_now, quota.clock());
		FOREACH a IN ARRAY v_subject.accounts LOOP
			v_now := greatest(v_now, a.period_start);
		END LOOP;

		-- a limit that is over by then does not count
		IF v_subject.valid_until <= v_now THEN
			DELETE FROM quota.usage_tracking AS t
			 WHERE t.user_id = p_user_id AND t.metric = v_metric AND t.period = ANY (v_created);
			v_created := '{}';
			v_locked := false;
			v_subject := quota_reference.resolve(p_user_id, p_metric, v_now);
			CONTINUE;
		END IF;

		v_subject.accounts := quota_reference.roll(v_subject, v_now);
		v_bonus := quota_reference.bonus_left(p_user_id, v_metric, v_now);
		v_out := quota_reference.decide(p_user_id, v_subject, p_amount, v_bonus, v_now);
		IF NOT v_out.allowed AND v_subject.valid_until IS NOT NULL THEN
			v_out := quota_reference.look_ahead(p_user_id, v_subject, p_amount, v_now, v_out);
		END IF;

		-- Was the key used before?  All calls that could use it take the same
		-- lock, so once it is held the answer is final.
		IF v_hash IS NOT NULL AND (v_locked OR NOT v_out.allowed) THEN
			SELECT e.amount, e.outcome INTO v_first
			  FROM quota.usage_events AS e
			 WHERE e.key_hash = v_hash;
			IF FOUND AND v_first.amount = p_amount THEN
				v_out := v_first.outcome;
				v_out.already_processed := true;
			ELSIF FOUND THEN
				v_out.allowed := false;
				v_out.reason := 'idempotency_conflict';
				v_out.bonus_used := 0;
				v_out.granted := 0;
				v_out.retry_after := NULL;
			END IF;
		END IF;

		IF NOT v_out.allowed OR v_out.already_processed THEN
			-- leave no account behind that nothing was charged to
			IF v_created <> '{}' THEN
				DELETE FROM quota.usage_tracking AS t
				 WHERE t.user_id = p_user_id AND t.metric = v_metric AND t.period = ANY (v_created);
			END IF;
			INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
											   plan_limit, current_usage, remaining, period, action,
											   event_id, created_at)
			VALUES (quota.new_id(v_now), p_user_id, v_metric, p_amount, v_out.allowed,
					CASE WHEN v_out.already_processed THEN 'replay' ELSE v_out.reason END,
					v_out.limit_amount, v_out.used, v_out.remaining, v_out.period, 'consume',
					v_out.event_id, v_now);
			RETURN v_out;
		END IF;

		EXIT WHEN v_locked AND (v_bonuses_locked OR v_out.bonus_used = 0);

		IF NOT v_locked THEN
			v_locked := true;
			FOR i IN 1 .. cardinality(v_subject.accounts) LOOP
				a := v_subject.accounts[i];
				CONTINUE WHEN a.period = ANY (v_created);
				IF a.is_new THEN
					-- of two first uses one waits here for the other
					INSERT INTO quota.usage_tracking (user_id, metric, period, period_start, period_end, anchor)
					VALUES (p_user_id, v_metric, a.period, a.period_start, a.period_end, a.anchor)
					ON CONFLICT DO NOTHING;
				END IF;
				IF a.is_new AND FOUND THEN
					-- locked by being new; it is opened again at the time of
					-- the decision
					v_created := v_created || a.period;
					a.used := NULL;
					a.period_start := NULL;
					a.period_end := NULL;
					a.anchor := NULL;
				ELSE
					SELECT t.period_start, t.period_end, t.used, t.held, t.anchor, false, false
					  INTO a.period_start, a.period_end, a.used, a.held, a.anchor, a.is_new, a.is_moved
					  FROM quota.usage_tracking AS t
					 WHERE t.user_id = p_user_id AND t.metric = v_metric AND t.period = a.period
					   FOR NO KEY UPDATE;
					-- gone since it was seen: once more, as a first use
					v_locked := v_locked AND FOUND;
				END IF;
				v_subject.accounts[i] := a;
			END LOOP;
		END IF;

		-- Calls that share no account, after a change of plan, share the bonuses.
		IF v_out.bonus_used > 0 THEN
			PERFORM FROM quota.user_bonuses AS b
			  WHERE b.user_id = p_user_id AND b.metric = v_metric AND b.available
			  ORDER BY b.id
				FOR NO KEY UPDATE;
			v_bonuses_locked := true;
		END IF;
	END LOOP;

	-- Granted
	v_take := v_out.bonus_used;
	v_out.event_id := quota.new_id(v_now);
	v_out.remaining := v_out.remaining - p_amount;
	v_out.used := v_out.used + p_amount;
	v_out.bonus_remaining := v_out.bonus_remaining - v_take;

	FOREACH a IN ARRAY v_subject.accounts LOOP
		IF a.is_moved THEN
			INSERT INTO quota.usage_history (user_id, metric, period, period_start, period_end,
											 used, bonus_used, overage, limit_amount, closed_at)
			SELECT t.user_id, t.metric, t.period, t.period_start, t.period_end,
				   t.used, t.bonus_used, t.overage, a.limit_amount, v_now
			  FROM quota.usage_tracking AS t
			 WHERE t.user_id = p_user_id AND t.metric = v_metric AND t.period = a.period;
		END IF;

		IF a.rank = 1 THEN
			v_allowance := a.period;
			a.used := a.used - v_take;
			IF v_out.period = a.period THEN
				v_out.used := v_out.used - v_take;
			END IF;
		ELSE
			v_rates := v_rates || a.period;
		END IF;

		UPDATE quota.usage_tracking AS t
		   SET period_start = a.period_start,
			   period_end = a.period_end,
			   used = a.used + p_amount,
			   bonus_used = CASE WHEN a.is_moved THEN 0 ELSE t.bonus_used END
						  + CASE WHEN a.rank = 1 THEN v_take ELSE 0 END,
			   overage = CASE WHEN a.is_moved THEN 0 ELSE t.overage END,
			   anchor = a.anchor
		 WHERE t.user_id = p_user_id AND t.metric = v_metric AND t.period = a.period;
	END LOOP;

	IF v_take > 0 THEN
		-- from each what it has, until v_take is reached
		WITH usable AS (
			SELECT b.id, b.amount - b.used_amount AS rest,
				   sum(b.amount - b.used_amount)
						OVER (ORDER BY b.priority, b.expires_at NULLS LAST, b.source = 'paid', b.granted_at, b.id
							  ROWS UNBOUNDED PRECEDING) AS running
			  FROM quota.user_bonuses AS b
			 WHERE b.user_id = p_user_id AND b.metric = v_metric AND b.available
			   AND (b.expires_at IS NULL OR b.expires_at > v_now)
		), taken AS (
			UPDATE quota.user_bonuses AS b
			   SET used_amount = b.used_amount + least(u.rest, v_take - u.running + u.rest)
			  FROM usable AS u
			 WHERE u.id = b.id AND u.running - u.rest < v_take
			RETURNING b.id, least(u.rest, v_take - u.running + u.rest) AS amount
		)
		INSERT INTO quota.bonus_allocations (event_id, bonus_id, amount)
		SELECT v_out.event_id, t.id, t.amount FROM taken AS t;
	END IF;

	WITH entry AS (
		INSERT INTO quota.usage_events (id, user_id, metric, kind, amount, bonus_used, period, rate_periods,
										key_hash, outcome, metadata, created_at)
		VALUES (v_out.event_id, p_user_id, v_metric, 'consume', p_amount, v_take, v_allowance, v_rates,
				v_hash, CASE WHEN v_hash IS NOT NULL THEN v_out END, p_metadata, v_now)
	)
	INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
									   plan_limit, current_usage, remaining, period, action,
									   event_id, created_at)
	VALUES (quota.new_id(v_now), p_user_id, v_metric, p_amount, true, v_out.reason,
			v_out.limit_amount, v_out.used, v_out.remaining, v_out.period, 'consume',
			v_out.event_id, v_now);
	RETURN v_out;
END
$$;

CREATE FUNCTION quota_reference.require_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_out	quota.outcome;
BEGIN
	v_out := quota_reference.check_and_consume_quota(p_user_id, p_metric, p_amount, p_idempotency_key, p_metadata);
	IF NOT v_out.allowed THEN
		RAISE EXCEPTION 'quota of "%" denied: %', v_out.metric, v_out.reason
			USING ERRCODE = 'QU001',
				  DETAIL = format('%s requested, %s remaining.', p_amount, v_out.remaining);
	END IF;
	RETURN v_out;
END
$$;

CREATE FUNCTION quota_reference.check_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1)
	RETURNS quota.outcome
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_subject	quota_reference.subject;
	v_now		timestamptz := quota.clock();
	v_state		record;
	v_out		quota.outcome;
BEGIN
	PERFORM quota_reference.validate(p_user_id, p_metric, p_amount, NULL, NULL);
	v_state := quota_reference.as_of(p_user_id, p_metric, v_now);
	v_now := v_state.moment;
	v_subject := v_state.subject;
	v_out := quota_reference.decide(p_user_id, v_subject, p_amount,
									quota_reference.bonus_left(p_user_id, v_subject.metric, v_now), v_now);
	IF NOT v_out.allowed THEN
		v_out := quota_reference.look_ahead(p_user_id, v_subject, p_amount, v_now, v_out);
	END IF;
	RETURN v_out;
END
$$;
