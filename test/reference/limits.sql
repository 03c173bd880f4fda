-- ---------------------------------------------------------------------------
-- Who is limited how: types, periods, limits and accounts at one instant
-- ---------------------------------------------------------------------------

-- A limit and the account that counts against it
CREATE TYPE quota_reference.account AS (
	period			text COLLATE "C",
	limit_amount	numeric,
	basis			text,			-- what periods are counted from: plan_limits.anchor
	mode			text,
	price			numeric,		-- of a unit of overage
	spend_cap		numeric,
	repay			boolean,		-- do new bonuses pay for overage first?
	period_start	timestamptz,
	period_end		timestamptz,
	used			numeric,		-- NULL = there is no account yet
	held			numeric,
	cost			numeric,		-- of the overage, used and held
	anchor			timestamptz,
	holds_expire_at	timestamptz,
	rank			integer,		-- 1 = the longest window, which is the allowance
	is_new			boolean,		-- opened by as_at()
	is_moved		boolean			-- moved on to another period by as_at()
);

-- A bonus that can be used, or be held
CREATE TYPE quota_reference.bonus AS (
	id				uuid,
	rest			numeric,
	expires_at		timestamptz,
	place			integer			-- in the order of use
);

-- Whose request, for what, and the accounts in the order of their primary key
CREATE TYPE quota_reference.subject AS (
	user_id			uuid,
	metric			text COLLATE "C",
	kind			text,
	anchor			timestamptz,	-- of the subscription; NULL = there is none
	time_zone		text,
	parent			uuid,
	valid_until		timestamptz,	-- when an override that counts now expires, or the
									-- plan changes; NULL = never
	accounts		quota_reference.account[],
	bonuses			quota_reference.bonus[]
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

-- Limits ---------------------------------------------------------------------

-- The metric that a name stands for; raises QU002 for an unknown one
CREATE FUNCTION quota_reference.metric_name(p_name text) RETURNS text
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_metric	text;
BEGIN
	SELECT m.metric INTO v_metric
	  FROM (SELECT metric, 1 FROM quota.metrics WHERE metric = p_name
			UNION ALL
			SELECT metric, 2 FROM quota.metric_aliases WHERE alias = p_name
			ORDER BY 2) AS m (metric, place) LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown metric "%"', p_name
			USING ERRCODE = 'QU002',
				  HINT = 'Metrics are listed in quota.metrics, other names for them in quota.metric_aliases.';
	END IF;
	RETURN v_metric;
END
$$;

-- The limits in force at p_at, and their accounts as they are in the tables.
-- Raises QU002 for an unknown metric, QU003 for an unknown default plan.
CREATE FUNCTION quota_reference.resolve(p_user_id uuid, p_metric text, p_at timestamptz)
	RETURNS quota_reference.subject
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_subject	quota_reference.subject;
	v_accounts	quota_reference.account[];
	v_overrides	boolean;
	v_until		timestamptz;
	v_plan		text;
BEGIN
	SELECT m.kind, s.anchor, s.time_zone, s.parent,
		   CASE WHEN s.pending_at > p_at THEN s.pending_at END,
		   ARRAY(SELECT ROW(l.period, l.limit_amount, l.anchor, l.mode, coalesce(l.overage_price, 0), l.spend_cap, l.repay_overage,
							a.period_start, a.period_end, a.used, a.held, a.cost + a.held_cost,
							a.anchor, a.holds_expire_at, 1, false, false)::quota_reference.account
				   FROM quota.plan_limits AS l
				   LEFT JOIN quota.usage_tracking AS a
					 ON a.user_id = p_user_id AND a.metric = l.metric AND a.period = l.period
				  WHERE l.plan = CASE WHEN s.user_id IS NULL THEN current_setting('quota.default_plan', true)
									  WHEN s.pending_at <= p_at THEN s.pending_plan
									  ELSE s.plan END
					AND l.metric = m.metric),
		   EXISTS (SELECT FROM quota.limit_overrides AS o
					WHERE o.user_id = p_user_id AND o.metric = m.metric)
	  INTO v_subject.kind, v_subject.anchor, v_subject.time_zone, v_subject.parent,
		   v_subject.valid_until, v_accounts, v_overrides
	  FROM quota.metrics AS m
	  LEFT JOIN quota.subscriptions AS s ON s.user_id = p_user_id
	 WHERE m.metric = p_metric;

	IF NOT FOUND THEN
		RETURN quota_reference.resolve(p_user_id, quota_reference.metric_name(p_metric), p_at);
	END IF;

	IF v_subject.time_zone IS NULL THEN
		v_subject.time_zone := 'UTC';
		IF cardinality(v_accounts) = 0 THEN
			v_plan := current_setting('quota.default_plan', true);
			IF v_plan <> '' AND NOT EXISTS (SELECT FROM quota.plans AS p WHERE p.plan = v_plan) THEN
				RAISE EXCEPTION 'unknown plan "%"', v_plan
					USING ERRCODE = 'QU003',
						  DETAIL = 'The setting quota.default_plan names it for subjects without a subscription.';
			END IF;
		END IF;
	END IF;

	IF v_overrides THEN
		WITH planned AS (
			SELECT l.*,
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
				   coalesce(l.basis, 'calendar') AS basis, coalesce(l.mode, 'hard') AS mode,
				   coalesce(l.price, 0) AS price, l.spend_cap, coalesce(l.repay, false) AS repay, o.expires_at
			  FROM planned AS l
			  FULL JOIN overridden AS o USING (period)
		)
		SELECT coalesce(array_agg(ROW(l.period, l.limit_amount, l.basis, l.mode, l.price, l.spend_cap, l.repay,
									  a.period_start, a.period_end, a.used, a.held, a.cost + a.held_cost,
									  a.anchor, a.holds_expire_at, 1, false, false)::quota_reference.account), '{}'),
			   min(l.expires_at)
		  INTO v_accounts, v_until
		  FROM limits AS l
		  LEFT JOIN quota.usage_tracking AS a
			ON a.user_id = p_user_id AND a.metric = p_metric AND a.period = l.period;
		v_subject.valid_until := least(v_subject.valid_until, v_until);
	END IF;

	IF cardinality(v_accounts) > 1 THEN
		SELECT array_agg(ROW(w.period, w.limit_amount, w.basis, w.mode, w.price, w.spend_cap, w.repay,
							 w.period_start, w.period_end, w.used, w.held, w.cost,
							 w.anchor, w.holds_expire_at, w.nr, false, false)::quota_reference.account ORDER BY w.period)
		  INTO v_accounts
		  FROM (SELECT *, row_number() OVER (ORDER BY quota_reference.period_length(l.period) DESC, l.period) AS nr
				  FROM unnest(v_accounts) AS l) AS w;
	END IF;

	v_subject.user_id := p_user_id;
	v_subject.metric := p_metric;
	v_subject.accounts := v_accounts;
	RETURN v_subject;
END
$$;

-- Holds and bonuses ------------------------------------------------------------

-- Reservations of a subject and metric that nothing has settled, canceled or
-- expired yet, and the instant whose period they belong to
CREATE FUNCTION quota_reference.open_holds(p_user_id uuid, p_metric text)
	RETURNS TABLE (id uuid, expires_at timestamptz, at timestamptz, period text, rate_periods text[],
				   held_allowance numeric, held numeric, held_cost numeric)
	LANGUAGE sql STABLE
AS $$
	SELECT e.id, e.expires_at, coalesce(e.effective_at, e.created_at), e.period, e.rate_periods,
		   coalesce(e.held, 0) - coalesce(e.held_bonus, 0) - coalesce(e.held_overage, 0),
		   coalesce(e.held, 0), coalesce(e.held_cost, 0)
	  FROM quota.usage_events AS e
	 WHERE e.user_id = p_user_id
	   AND e.metric = p_metric
	   AND e.expires_at IS NOT NULL
	   AND NOT EXISTS (SELECT FROM quota.usage_events AS r
						WHERE r.refers_to = e.id AND r.kind IN ('settle', 'cancel', 'expire'))
$$;

-- Bonuses that can be used at p_at, in the order of use; what lapsed holds have
-- set aside is free again
CREATE FUNCTION quota_reference.usable_bonuses(p_user_id uuid, p_metric text, p_at timestamptz)
	RETURNS quota_reference.bonus[]
	LANGUAGE plpgsql STABLE
AS $$
BEGIN
	RETURN (
		SELECT coalesce(array_agg(ROW(b.id, b.rest, b.expires_at, b.place)::quota_reference.bonus ORDER BY b.place), '{}')
		  FROM (SELECT u.id, u.expires_at,
					   u.amount - u.used_amount - u.given_amount - u.held_amount
					   + CASE WHEN u.held_amount = 0 THEN 0 ELSE
							coalesce((SELECT sum(a.held)
										FROM quota_reference.open_holds(p_user_id, p_metric) AS h
										JOIN quota.bonus_allocations AS a ON a.event_id = h.id
									   WHERE a.bonus_id = u.id AND h.expires_at <= p_at), 0) END AS rest,
					   row_number() OVER (ORDER BY u.priority, u.expires_at NULLS LAST, u.source = 'paid', u.granted_at, u.id) AS place
				  FROM quota.user_bonuses AS u
				 WHERE u.user_id = p_user_id
				   AND u.metric = p_metric
				   AND u.available
				   AND (u.expires_at IS NULL OR u.expires_at > p_at)) AS b);
END
$$;

-- Accounts --------------------------------------------------------------------

-- A subject as it stands at p_now: missing accounts opened, ended ones moved on,
-- lapsed holds taken off, the bonuses read.  Writes nothing.
CREATE FUNCTION quota_reference.as_at(p_subject quota_reference.subject, p_now timestamptz)
	RETURNS quota_reference.subject
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	a			quota_reference.account;
	v_endless	boolean;
	v_from		timestamptz;
	v_start		timestamptz;
	v_end		timestamptz;
	v_lapsed	numeric;
	v_cost		numeric;
BEGIN
	p_subject.bonuses := quota_reference.usable_bonuses(p_subject.user_id, p_subject.metric, p_now);

	FOR i IN 1 .. cardinality(p_subject.accounts) LOOP
		a := p_subject.accounts[i];

		-- gauges are levels and features are facts: neither starts again
		v_endless := p_subject.kind <> 'counter' OR a.period = 'lifetime';
		-- the metric's kind has changed: what was counted so far ends now
		IF a.used IS NOT NULL AND v_endless <> (a.period_end IS NULL) THEN
			a.period_end := least(a.period_end, p_now);
		END IF;

		IF a.used IS NOT NULL AND (a.period_end <= p_now) IS NOT TRUE THEN
			IF a.held <> 0 OR a.cost <> 0 THEN
				SELECT coalesce(sum(CASE WHEN h.period = a.period THEN h.held_allowance ELSE h.held END), 0),
					   coalesce(sum(h.held_cost) FILTER (WHERE h.period = a.period), 0)
				  INTO v_lapsed, v_cost
				  FROM quota_reference.open_holds(p_subject.user_id, p_subject.metric) AS h
				 WHERE h.expires_at <= p_now
				   AND h.at >= a.period_start
				   AND (h.period = a.period OR a.period = ANY (h.rate_periods));
				a.held := a.held - v_lapsed;
				a.cost := a.cost - v_cost;
				p_subject.accounts[i] := a;
			END IF;
			CONTINUE;
		END IF;

		v_start := NULL;
		v_end := NULL;
		IF NOT v_endless THEN
			-- without a subscription there is no anniversary to count from
			IF a.basis = 'first_use' OR (a.basis = 'subscription' AND p_subject.anchor IS NULL) THEN
				-- of what was counted from elsewhere, the first use is not known any more
				a.anchor := coalesce(a.anchor, CASE WHEN a.used IS NULL THEN p_now END);
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
		a.held := 0;
		a.cost := 0;
		p_subject.accounts[i] := a;
	END LOOP;
	RETURN p_subject;
END
$$;

-- p_at, or the later time that an account has reached already: an account's time
-- never runs backwards
CREATE FUNCTION quota_reference.time_of(p_subject quota_reference.subject, p_at timestamptz) RETURNS timestamptz
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	a	quota_reference.account;
BEGIN
	FOREACH a IN ARRAY p_subject.accounts LOOP
		p_at := greatest(p_at, a.period_start);
	END LOOP;
	RETURN p_at;
END
$$;

-- Limits and accounts as they stand at p_at if nothing happens until then, or at
-- the later moment that an account has reached already
CREATE FUNCTION quota_reference.as_of(
	p_user_id uuid,
	p_metric text,
	p_at timestamptz,
	OUT moment timestamptz,
	OUT subject quota_reference.subject)
	LANGUAGE plpgsql STABLE
AS $$
BEGIN
	moment := p_at;
	LOOP
		subject := quota_reference.resolve(p_user_id, p_metric, moment);
		moment := quota_reference.time_of(subject, moment);
		EXIT WHEN (subject.valid_until <= moment) IS NOT TRUE;
	END LOOP;
	subject := quota_reference.as_at(subject, moment);
END
$$;

-- A subject and its parents at p_at, as they are in the tables: the subject
-- itself first, then those of its parents that have limits on the metric, or all
CREATE FUNCTION quota_reference.levels(p_user_id uuid, p_metric text, p_at timestamptz, p_all boolean DEFAULT false)
	RETURNS quota_reference.subject[]
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_levels	quota_reference.subject[] := '{}';
	v_subject	quota_reference.subject;
	v_user_id	uuid := p_user_id;
BEGIN
	FOR v_depth IN 1 .. 8 LOOP
		v_subject := quota_reference.resolve(v_user_id, p_metric, p_at);
		IF p_all OR v_depth = 1 OR cardinality(v_subject.accounts) > 0 THEN
			v_levels := v_levels || v_subject;
		END IF;
		v_user_id := v_subject.parent;
		IF v_user_id IS NULL THEN
			RETURN v_levels;
		END IF;
	END LOOP;
	RAISE EXCEPTION 'subject has more than 7 levels of parents';
END
$$;

-- A subject and all its parents as they stand at one moment: p_at, or the first one
-- after it at which their limits do not change while they are read
CREATE FUNCTION quota_reference.levels_as_of(
	p_user_id uuid,
	p_metric text,
	p_at timestamptz,
	OUT moment timestamptz,
	OUT levels quota_reference.subject[])
	LANGUAGE plpgsql STABLE
AS $$
BEGIN
	moment := p_at;
	LOOP
		levels := quota_reference.levels(p_user_id, p_metric, moment, true);
		moment := (SELECT max(quota_reference.time_of(s, moment)) FROM unnest(levels) AS s);
		EXIT WHEN (SELECT bool_or(s.valid_until <= moment) IS NOT TRUE FROM unnest(levels) AS s);
	END LOOP;
	FOR i IN 1 .. cardinality(levels) LOOP
		levels[i] := quota_reference.as_at(levels[i], moment);
	END LOOP;
END
$$;
