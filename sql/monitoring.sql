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
	LEFT JOIN quota.plan_limits pl
		ON pl.plan = coalesce(s.plan, v_default_plan) AND pl.metric = a.metric AND pl.period = a.period
	LEFT JOIN allowance al
		ON al.plan = coalesce(s.plan, v_default_plan) AND al.metric = a.metric
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
		AND a.used > 0
		AND 100 * a.used >= p_threshold_percent * l.limit_amount
		AND (l.limit_amount > 0 OR p_threshold_percent <= 100)
	ORDER BY 6 DESC, 1, 2, 3;
END
$$;
COMMENT ON FUNCTION quota.get_users_near_quota_limit(numeric) IS
'Accounts that have used at least this percentage of their limit in the current period, highest first; bonuses are not looked at, unlimited never appears';

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
		SELECT t.user_id, t.metric, t.period, t.period_start, t.period_end, t.used, t.bonus_used
		FROM quota.usage_tracking t
		WHERE p_user_id IS NULL OR t.user_id = p_user_id
		UNION ALL
		SELECT h.user_id, h.metric, h.period, h.period_start, h.period_end, h.used, h.bonus_used
		FROM quota.usage_history h
		WHERE p_user_id IS NULL OR h.user_id = p_user_id
	),
	-- what each event added to each of its windows
	charges AS (
		SELECT e.user_id, e.metric, e.period, e.created_at, e.amount - e.bonus_used AS used, e.bonus_used
		FROM quota.usage_events e
		WHERE p_user_id IS NULL OR e.user_id = p_user_id
		UNION ALL
		SELECT e.user_id, e.metric, w.period, e.created_at, e.amount, 0
		FROM quota.usage_events e
		CROSS JOIN unnest(e.rate_periods) AS w (period)
		WHERE (p_user_id IS NULL OR e.user_id = p_user_id) AND e.rate_periods IS NOT NULL
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
	-- Both in one line of time, cut wherever a period ends or starts: a charge
	-- belongs to the piece that it lies in.  A join by range would compare every
	-- charge of an account with every period of it.
	line AS (
		SELECT m.*, count(*) FILTER (WHERE m.place < 3)
			OVER (PARTITION BY m.user_id, m.metric, m.period ORDER BY m.at, m.place
				ROWS UNBOUNDED PRECEDING) AS piece
		FROM (
			SELECT p.user_id, p.metric, p.period, p.period_end AS at, 1 AS place,
				NULL::numeric AS used, NULL::numeric AS bonus_used
			FROM periods p
			WHERE p.period_end IS NOT NULL
			UNION ALL
			SELECT p.user_id, p.metric, p.period, p.period_start, 2, p.used, p.bonus_used
			FROM periods p
			UNION ALL
			SELECT c.user_id, c.metric, c.period, c.created_at, 3, c.used, c.bonus_used
			FROM charges c
		) AS m
	),
	-- a piece without a start lies outside all periods
	sums AS (
		SELECT l.user_id, l.metric, l.period,
			max(l.at) FILTER (WHERE l.place = 2) AS period_start,
			max(l.used) FILTER (WHERE l.place = 2) AS used,
			max(l.bonus_used) FILTER (WHERE l.place = 2) AS bonus_used,
			coalesce(sum(l.used) FILTER (WHERE l.place = 3), 0) AS charged,
			coalesce(sum(l.bonus_used) FILTER (WHERE l.place = 3), 0) AS bonus_charged
		FROM line l
		GROUP BY l.user_id, l.metric, l.period, l.piece
	)
	SELECT s.user_id, s.metric, s.period, s.period_start, c.counter, c.recorded, c.expected
	FROM sums s
	CROSS JOIN LATERAL (VALUES
		('used' COLLATE "C", s.used, s.charged),
		('bonus_used', s.bonus_used, s.bonus_charged)
	) AS c (counter, recorded, expected)
	WHERE coalesce(c.recorded, 0) <> c.expected

	-- nothing can be held or granted beyond the limit yet
	UNION ALL
	SELECT t.user_id, t.metric, t.period, t.period_start, c.counter, c.recorded, 0
	FROM quota.usage_tracking t
	CROSS JOIN LATERAL (VALUES ('held' COLLATE "C", t.held), ('overage', t.overage)) AS c (counter, recorded)
	WHERE (p_user_id IS NULL OR t.user_id = p_user_id) AND c.recorded <> 0

	UNION ALL
	SELECT h.user_id, h.metric, h.period, h.period_start, 'overage' COLLATE "C", h.overage, 0
	FROM quota.usage_history h
	WHERE (p_user_id IS NULL OR h.user_id = p_user_id) AND h.overage <> 0

	-- Each bonus against its lines, and each event.  What a line names may be gone.
	UNION ALL
	SELECT coalesce(b.user_id, e.user_id), coalesce(b.metric, e.metric), NULL, NULL,
		('bonus ' || coalesce(b.id, x.bonus_id)) COLLATE "C", b.used_amount, coalesce(x.amount, 0)
	FROM (SELECT * FROM quota.user_bonuses WHERE p_user_id IS NULL OR user_bonuses.user_id = p_user_id) AS b
	FULL JOIN (SELECT a.bonus_id, sum(a.amount) AS amount, (array_agg(a.event_id))[1] AS event_id
		FROM allocations a GROUP BY a.bonus_id) AS x ON x.bonus_id = b.id
	LEFT JOIN quota.usage_events e ON e.id = x.event_id
	WHERE b.used_amount IS DISTINCT FROM coalesce(x.amount, 0)

	UNION ALL
	SELECT coalesce(e.user_id, b.user_id), coalesce(e.metric, b.metric), e.period, NULL,
		('event ' || coalesce(e.id, x.event_id)) COLLATE "C", e.bonus_used, coalesce(x.amount, 0)
	FROM (SELECT * FROM quota.usage_events WHERE p_user_id IS NULL OR usage_events.user_id = p_user_id) AS e
	FULL JOIN (SELECT a.event_id, sum(a.amount) AS amount, (array_agg(a.bonus_id))[1] AS bonus_id
		FROM allocations a GROUP BY a.event_id) AS x ON x.event_id = e.id
	LEFT JOIN quota.user_bonuses b ON b.id = x.bonus_id
	WHERE e.bonus_used IS DISTINCT FROM coalesce(x.amount, 0)

	ORDER BY 1, 2, 3, 4, 5;
END
$$;
COMMENT ON FUNCTION quota.verify_ledger(uuid) IS
'Every counter that differs from the sum of its entries, of one subject or of all; recorded is NULL where entries belong to no account, bonus or event; empty = sound';
