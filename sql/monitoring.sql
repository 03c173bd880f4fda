-- ---------------------------------------------------------------------------
-- Seeing: questions over all subjects, answered from the tables
-- ---------------------------------------------------------------------------

CREATE FUNCTION quota.get_users_near_quota_limit(p_threshold_percent numeric DEFAULT 80)
	RETURNS TABLE (
		user_id			uuid,
		metric			text,
		period			text,
		used			numeric,
		limit_amount	numeric,
		percent_used	numeric)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_now			timestamptz := quota.clock();
	-- after the clock, which loads the library that defines the setting
	v_default_plan	text := nullif(current_setting('quota.default_plan', true), '');
BEGIN
	-- NaN is above every number, so it fails the second test
	IF p_threshold_percent IS NULL OR p_threshold_percent <= 0 OR p_threshold_percent > 1000 THEN
		RAISE EXCEPTION 'threshold must be above 0 and at most 1000 percent'
			USING ERRCODE = '22023',
				DETAIL = format('The threshold is %s.', coalesce(p_threshold_percent::text, 'NULL')),
				HINT = 'Pass a percentage of the limit, such as 80.';
	END IF;

	RETURN QUERY
	-- the allowance of each plan and metric: what an override without a period is for
	WITH allowance AS (
		SELECT DISTINCT ON (pl.plan, pl.metric) pl.plan, pl.metric, pl.period
		FROM quota.plan_limits pl
		ORDER BY pl.plan, pl.metric, quota.period_length(pl.period) DESC, pl.period
	)
	SELECT a.user_id, a.metric, a.period, a.used, l.limit_amount,
		CASE WHEN l.limit_amount = 0 THEN 100 ELSE trim_scale(round(100 * a.used / l.limit_amount, 2)) END
	FROM quota.usage_tracking a
	-- an account's time does not go back with the clock
	CROSS JOIN LATERAL (SELECT greatest(v_now, a.period_start)) AS n (now)
	JOIN quota.metrics m ON m.metric = a.metric
	LEFT JOIN quota.subscriptions s ON s.user_id = a.user_id
	-- a member without a plan of its own has no limits, not those of the default plan
	CROSS JOIN LATERAL (
		SELECT CASE
			WHEN s.user_id IS NULL THEN v_default_plan
			WHEN s.pending_at <= n.now THEN s.pending_plan
			ELSE s.plan
		END
	) AS c (plan)
	LEFT JOIN quota.plan_limits pl
		ON pl.plan = c.plan AND pl.metric = a.metric AND pl.period = a.period
	LEFT JOIN allowance al
		ON al.plan = c.plan AND al.metric = a.metric
	LEFT JOIN quota.limit_overrides exact
		ON exact.user_id = a.user_id AND exact.metric = a.metric AND exact.period = a.period
		AND (exact.expires_at IS NULL OR exact.expires_at > n.now)
	LEFT JOIN quota.limit_overrides general
		ON general.user_id = a.user_id AND general.metric = a.metric AND general.period IS NULL
		AND a.period = coalesce(al.period, 'lifetime')
		AND (general.expires_at IS NULL OR general.expires_at > n.now)
	-- an override counts even where it says unlimited (NULL), so no coalesce here
	CROSS JOIN LATERAL (
		SELECT CASE
			WHEN exact.id IS NOT NULL THEN exact.limit_amount
			WHEN general.id IS NOT NULL THEN general.limit_amount
			ELSE pl.limit_amount
		END
	) AS l (limit_amount)
	WHERE (a.period_end IS NULL OR a.period_end > n.now)
		-- what was counted before the metric changed its kind is over
		AND (a.period_end IS NULL) = (m.kind <> 'counter' OR a.period = 'lifetime')
		-- the units of a sliding window, or of a rate, belong to no period
		AND coalesce(pl.algorithm, 'fixed') = 'fixed'
		AND a.used > 0
		AND 100 * a.used >= p_threshold_percent * l.limit_amount
		AND (l.limit_amount > 0 OR p_threshold_percent <= 100)
	ORDER BY 6 DESC, 1, 2, 3;
END
$$;
COMMENT ON FUNCTION quota.get_users_near_quota_limit(numeric) IS
'Accounts that have used at least this percentage of their limit in the current period, highest first; bonuses and overage are not looked at; unlimited, sliding and gcra limits never appear';

-- The counters against the ledger ------------------------------------------------

CREATE FUNCTION quota.verify_ledger(p_user_id uuid DEFAULT NULL)
	RETURNS TABLE (
		user_id			uuid,
		metric			text,
		period			text,
		period_start	timestamptz,
		counter			text,
		recorded		numeric,
		expected		numeric)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	-- one subject wants index scans, all want hash joins: plan for the argument
	SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
	RETURN QUERY
	-- every period of every account, closed ones included
	WITH periods AS (
		SELECT t.user_id, t.metric, t.period, t.period_start, t.period_end,
			t.used, t.bonus_used, t.overage, t.cost, t.held, t.held_cost
		FROM quota.usage_tracking t
		WHERE p_user_id IS NULL OR t.user_id = p_user_id
		UNION ALL
		SELECT h.user_id, h.metric, h.period, h.period_start, h.period_end,
			h.used, h.bonus_used, h.overage, h.cost, h.held, h.held_cost
		FROM quota.usage_history h
		WHERE p_user_id IS NULL OR h.user_id = p_user_id
	),
	events AS (
		SELECT e.id, e.user_id, e.metric, e.kind, e.period, e.rate_periods, e.refers_to,
			coalesce(e.effective_at, e.created_at) AS at, e.amount, e.bonus_used, e.overage, e.cost,
			coalesce(e.held, 0) AS held, coalesce(e.held_bonus, 0) AS held_bonus,
			coalesce(e.held_overage, 0) AS held_overage, coalesce(e.held_cost, 0) AS held_cost
		FROM quota.usage_events e
		WHERE p_user_id IS NULL OR e.user_id = p_user_id
	),
	-- What each event moved in each of its windows: its parts in the allowance, all
	-- of its units in the others
	moves AS (
		SELECT e.user_id, e.metric, e.period, e.at,
			e.amount - e.bonus_used - e.overage AS used, e.bonus_used, e.overage, e.cost,
			e.held - e.held_bonus - e.held_overage AS held, e.held_cost
		FROM events e
		UNION ALL
		SELECT e.user_id, e.metric, w.period, e.at, e.amount, 0, 0, 0, e.held, 0
		FROM events e
		CROSS JOIN unnest(e.rate_periods) AS w (period)
		WHERE e.rate_periods IS NOT NULL
	),
	-- what was taken by the subject's events or from its bonuses
	allocations AS (
		SELECT x.*
		FROM quota.bonus_allocations x
		WHERE p_user_id IS NULL
		UNION
		SELECT x.*
		FROM quota.usage_events e
		JOIN quota.bonus_allocations x ON x.event_id = e.id
		WHERE e.user_id = p_user_id
		UNION
		SELECT x.*
		FROM quota.user_bonuses b
		JOIN quota.bonus_allocations x ON x.bonus_id = b.id
		WHERE b.user_id = p_user_id
	),
	-- Both in one line of time, cut wherever a period ends or starts: a move
	-- belongs to the piece that it lies in.  (A period that was reset in its last
	-- moment leaves one of no length, which the next one comes after.)  A join by
	-- range would compare every move of an account with every period of it.
	line AS (
		SELECT m.*, count(*) FILTER (WHERE m.place < 3)
			OVER (PARTITION BY m.user_id, m.metric, m.period ORDER BY m.at, m.place, m.until
				ROWS UNBOUNDED PRECEDING) AS piece
		FROM (
			SELECT p.user_id, p.metric, p.period, p.period_end AS at, 1 AS place, NULL::timestamptz AS until,
				NULL::numeric AS used, NULL::numeric AS bonus_used, NULL::numeric AS overage,
				NULL::numeric AS cost, NULL::numeric AS held, NULL::numeric AS held_cost
			FROM periods p
			WHERE p.period_end IS NOT NULL
			UNION ALL
			SELECT p.user_id, p.metric, p.period, p.period_start, 2, coalesce(p.period_end, 'infinity'),
				p.used, p.bonus_used, p.overage, p.cost, p.held, p.held_cost
			FROM periods p
			UNION ALL
			SELECT c.user_id, c.metric, c.period, c.at, 3, NULL,
				c.used, c.bonus_used, c.overage, c.cost, c.held, c.held_cost
			FROM moves c
		) AS m
	),
	-- A piece without a start lies outside all periods.  Where it has one, that row
	-- is what is recorded; the others are what is expected.
	sums AS (
		SELECT l.user_id, l.metric, l.period,
			max(l.at) FILTER (WHERE l.place = 2) AS period_start,
			max(l.used) FILTER (WHERE l.place = 2) AS used,
			max(l.bonus_used) FILTER (WHERE l.place = 2) AS bonus_used,
			max(l.overage) FILTER (WHERE l.place = 2) AS overage,
			max(l.cost) FILTER (WHERE l.place = 2) AS cost,
			max(l.held) FILTER (WHERE l.place = 2) AS held,
			max(l.held_cost) FILTER (WHERE l.place = 2) AS held_cost,
			coalesce(sum(l.used) FILTER (WHERE l.place = 3), 0) AS moved_used,
			coalesce(sum(l.bonus_used) FILTER (WHERE l.place = 3), 0) AS moved_bonus_used,
			coalesce(sum(l.overage) FILTER (WHERE l.place = 3), 0) AS moved_overage,
			coalesce(sum(l.cost) FILTER (WHERE l.place = 3), 0) AS moved_cost,
			coalesce(sum(l.held) FILTER (WHERE l.place = 3), 0) AS moved_held,
			coalesce(sum(l.held_cost) FILTER (WHERE l.place = 3), 0) AS moved_held_cost
		FROM line l
		GROUP BY l.user_id, l.metric, l.period, l.piece
	)
	SELECT s.user_id, s.metric, s.period, s.period_start, c.counter, c.recorded, c.expected
	FROM sums s
	CROSS JOIN LATERAL (VALUES
		('used' COLLATE "C", s.used, s.moved_used),
		('bonus_used', s.bonus_used, s.moved_bonus_used),
		('overage', s.overage, s.moved_overage),
		('cost', s.cost, s.moved_cost),
		('held', s.held, s.moved_held),
		('held_cost', s.held_cost, s.moved_held_cost)
	) AS c (counter, recorded, expected)
	WHERE coalesce(c.recorded, 0) <> c.expected

	-- Each bonus against its lines, and each event.  What a line names may be gone.
	UNION ALL
	SELECT coalesce(b.user_id, e.user_id), coalesce(b.metric, e.metric), NULL, NULL,
		('bonus ' || coalesce(b.id, x.bonus_id) || c.counter) COLLATE "C", c.recorded, c.expected
	FROM (SELECT * FROM quota.user_bonuses WHERE p_user_id IS NULL OR user_bonuses.user_id = p_user_id) AS b
	FULL JOIN (SELECT a.bonus_id, sum(a.amount) AS amount, sum(a.held) AS held, (array_agg(a.event_id))[1] AS event_id
		FROM allocations a GROUP BY a.bonus_id) AS x ON x.bonus_id = b.id
	LEFT JOIN (SELECT g.from_bonus_id, sum(g.amount) AS amount
		FROM quota.gift_lines g
		WHERE p_user_id IS NULL
			OR g.from_bonus_id IN (SELECT o.id FROM quota.user_bonuses o WHERE o.user_id = p_user_id)
		GROUP BY g.from_bonus_id) AS given ON given.from_bonus_id = b.id
	LEFT JOIN quota.usage_events e ON e.id = x.event_id
	CROSS JOIN LATERAL (VALUES
		('', b.used_amount, coalesce(x.amount, 0)),
		-- one that is gone is told once
		(' held', CASE WHEN b.id IS NULL THEN coalesce(x.held, 0) ELSE b.held_amount END, coalesce(x.held, 0)),
		(' given', coalesce(b.given_amount, 0), coalesce(given.amount, 0))
	) AS c (counter, recorded, expected)
	WHERE c.recorded IS DISTINCT FROM c.expected

	UNION ALL
	SELECT coalesce(e.user_id, b.user_id), coalesce(e.metric, b.metric), e.period, NULL,
		('event ' || coalesce(e.id, x.event_id) || c.counter) COLLATE "C", c.recorded, c.expected
	FROM events e
	FULL JOIN (SELECT a.event_id, sum(a.amount) AS amount, sum(a.held) AS held, (array_agg(a.bonus_id))[1] AS bonus_id
		FROM allocations a GROUP BY a.event_id) AS x ON x.event_id = e.id
	LEFT JOIN quota.user_bonuses b ON b.id = x.bonus_id
	CROSS JOIN LATERAL (VALUES
		('', e.bonus_used, coalesce(x.amount, 0)),
		(' held', CASE WHEN e.id IS NULL THEN coalesce(x.held, 0) ELSE e.held_bonus END, coalesce(x.held, 0))
	) AS c (counter, recorded, expected)
	WHERE c.recorded IS DISTINCT FROM c.expected

	-- A reservation is resolved once and then holds nothing; no more is refunded
	-- than there was.
	UNION ALL
	SELECT o.user_id, o.metric, o.period, NULL, ('event ' || o.id || c.counter) COLLATE "C", c.recorded, c.expected
	FROM (SELECT e.id, e.user_id, e.metric, e.period, e.held, e.amount,
			count(*) FILTER (WHERE r.kind <> 'refund') AS resolutions,
			sum(r.held) AS returned, coalesce(-sum(r.amount) FILTER (WHERE r.kind = 'refund'), 0) AS refunded
		FROM events e
		JOIN events r ON r.refers_to = e.id AND r.user_id = e.user_id AND r.metric = e.metric
		WHERE r.kind IN ('settle', 'cancel', 'expire', 'refund')
		GROUP BY e.id, e.user_id, e.metric, e.period, e.held, e.amount) AS o
	CROSS JOIN LATERAL (VALUES
		(' resolutions', o.resolutions::numeric, least(o.resolutions, 1)::numeric),
		(' returned', -o.returned, CASE WHEN o.resolutions = 0 THEN -o.returned ELSE o.held END),
		(' refunded', o.refunded, least(o.refunded, greatest(o.amount, 0)))
	) AS c (counter, recorded, expected)
	WHERE c.recorded <> c.expected

	ORDER BY 1, 2, 3, 4, 5;
END
$$;
COMMENT ON FUNCTION quota.verify_ledger(uuid) IS
'Every counter that differs from the sum of its entries, of one subject or of all, and every event that was undone or completed by more than there was of it; recorded is NULL where entries belong to no account, bonus or event; empty = sound';
