-- ---------------------------------------------------------------------------
-- Reports from the ledger and the audit log
-- ---------------------------------------------------------------------------

CREATE FUNCTION quota.id_bound(p_at timestamptz) RETURNS uuid
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	-- milliseconds, version, 4096ths of the millisecond: as new_id(), which has
	-- no time before 1970 and puts random bits behind
	SELECT (lpad(to_hex(u.at / 1000), 12, '0') || '7'
			|| lpad(to_hex(u.at % 1000 * 4096 / 1000), 3, '0') || repeat('0', 16))::uuid
		FROM (SELECT (extract(epoch FROM greatest(least(p_at, '9999-12-31 00:00+00'), '1970-01-01 00:00+00'))
			* 1000000)::bigint) AS u (at)
$$;
COMMENT ON FUNCTION quota.id_bound(timestamptz) IS
'The lowest UUID version 7 of an instant: "id >= id_bound(...)" selects entries made from then on by the primary key';

-- The ledger, by pages -------------------------------------------------------------

CREATE FUNCTION quota.get_usage_logs(
	p_user_id uuid DEFAULT NULL,
	p_metric text DEFAULT NULL,
	p_from timestamptz DEFAULT NULL,
	p_to timestamptz DEFAULT NULL,
	p_limit integer DEFAULT 100,
	p_offset integer DEFAULT 0,
	p_kind text DEFAULT NULL)
	RETURNS TABLE (
		id			uuid,
		user_id		uuid,
		metric		text,
		kind		text,
		amount		numeric,
		bonus_used	numeric,
		overage		numeric,
		cost		numeric,
		period		text,
		metadata	jsonb,
		refers_to	uuid,
		created_at	timestamptz)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	-- which index serves depends on the filters that are given
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	KINDS		CONSTANT text[] := '{consume,release,set_gauge,adjust,reserve,settle,cancel,expire,refund,repay}';
	v_metric	text;
	v_from_id	uuid := quota.id_bound(p_from);
	-- all times before 1970 have the ids of its first millisecond
	v_to_id		uuid := quota.id_bound(greatest(p_to, '1970-01-01 00:00:00.001+00'));
BEGIN
	IF p_metric IS NOT NULL THEN
		v_metric := quota.resolve_metric(p_metric);
	END IF;
	IF p_limit IS NULL OR p_limit NOT BETWEEN 1 AND 10000 THEN
		RAISE EXCEPTION 'limit must be from 1 to 10000 rows'
			USING ERRCODE = '22023',
				DETAIL = format('The limit is %s.', coalesce(p_limit::text, 'NULL')),
				HINT = 'Ask for more in pages, with p_offset or by p_to.';
	END IF;
	IF p_offset IS NULL OR p_offset < 0 THEN
		RAISE EXCEPTION 'offset must not be negative'
			USING ERRCODE = '22023',
				DETAIL = format('The offset is %s.', coalesce(p_offset::text, 'NULL')),
				HINT = 'Pass the number of rows to skip, or leave the argument out.';
	END IF;
	IF p_kind <> ALL (KINDS) THEN
		RAISE EXCEPTION 'unknown kind "%"', p_kind
			USING ERRCODE = '22023',
				HINT = format('Kinds of events are %s.', array_to_string(KINDS, ', '));
	END IF;

	RETURN QUERY
	SELECT e.id, e.user_id, e.metric, e.kind, e.amount, e.bonus_used, e.overage, e.cost, e.period,
			e.metadata, e.refers_to, e.created_at
		FROM quota.usage_events e
		WHERE (p_user_id IS NULL OR e.user_id = p_user_id)
			AND (v_metric IS NULL OR e.metric = v_metric)
			AND (p_kind IS NULL OR e.kind = p_kind)
			-- the id for the index, the time itself for rows that others have put in
			AND (p_from IS NULL OR (e.id >= v_from_id AND e.created_at >= p_from))
			AND (p_to IS NULL OR p_to = 'infinity' OR (e.id < v_to_id AND e.created_at < p_to))
		ORDER BY e.id DESC
		LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION quota.get_usage_logs(uuid, text, timestamptz, timestamptz, integer, integer, text) IS
'Events of the ledger, newest first: of a subject, of a metric (or alias), from p_from up to but not including p_to, of a kind; 1 to 10000 rows after the first p_offset';

-- Figures ----------------------------------------------------------------------------

CREATE FUNCTION quota.get_quota_statistics(p_metric text DEFAULT NULL, p_days integer DEFAULT 30)
	RETURNS TABLE (
		total_usage			numeric,
		total_calls			bigint,
		unique_users		bigint,
		avg_usage_per_call	numeric,
		peak_usage_date		date,
		successful_calls	bigint,
		failed_calls		bigint,
		total_cost			numeric,
		most_used_metric	text,
		peak_weekday		text,
		utilisation			numeric)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	v_now		timestamptz := quota.clock();
	v_from		timestamptz;
	v_from_id	uuid;
	v_metric	text;
BEGIN
	IF p_metric IS NOT NULL THEN
		v_metric := quota.resolve_metric(p_metric);
	END IF;
	IF p_days IS NULL OR p_days NOT BETWEEN 1 AND 365 THEN
		RAISE EXCEPTION 'days must be from 1 to 365'
			USING ERRCODE = '22023',
				DETAIL = format('The number of days is %s.', coalesce(p_days::text, 'NULL')),
				HINT = 'Pass the number of days to look back; the default is 30.';
	END IF;
	-- days of 24 hours, whatever zone the session is in
	v_from := v_now - p_days * interval '24 hours';
	v_from_id := quota.id_bound(v_from);

	-- one call of a member charges its parents, too: its units are counted once,
	-- with the subject that was named, but each level's cost is a cost
	WITH events AS MATERIALIZED (
		SELECT e.metric, e.cost, (e.created_at AT TIME ZONE 'UTC')::date AS day,
			CASE WHEN CASE WHEN e.kind NOT IN ('settle', 'refund') THEN e.refers_to
					WHEN origin.kind = 'settle' THEN hold.refers_to
					ELSE origin.refers_to END IS NULL THEN e.amount ELSE 0 END AS amount
		FROM quota.usage_events e
		-- what is settled or refunded, and the reservation of a refund's settlement
		LEFT JOIN quota.usage_events origin ON origin.id = e.refers_to AND e.kind IN ('settle', 'refund')
		LEFT JOIN quota.usage_events hold ON hold.id = origin.refers_to AND origin.kind = 'settle'
		WHERE e.id >= v_from_id AND e.created_at > v_from AND e.created_at <= v_now
			AND (v_metric IS NULL OR e.metric = v_metric)
			AND (e.amount <> 0 OR e.cost <> 0)
	),
	calls AS (
		SELECT count(*) AS total, count(*) FILTER (WHERE a.success) AS successful, count(DISTINCT a.user_id) AS users
		FROM quota.quota_audit_log a
		WHERE a.id >= v_from_id AND a.created_at > v_from AND a.created_at <= v_now
			AND (v_metric IS NULL OR a.metric = v_metric)
			-- admin acts have an actor
			AND a.actor IS NULL AND a.reason <> 'replay'
	)
	SELECT trim_scale(coalesce(s.amount, 0)), c.total, c.users,
			trim_scale(round(coalesce(s.amount, 0) / nullif(c.successful, 0), 6)),
			(SELECT e.day FROM events e GROUP BY e.day HAVING sum(e.amount) > 0 ORDER BY sum(e.amount) DESC, e.day LIMIT 1),
			c.successful, c.total - c.successful, trim_scale(coalesce(s.cost, 0)),
			(SELECT e.metric FROM events e GROUP BY e.metric HAVING sum(e.amount) > 0 ORDER BY sum(e.amount) DESC, e.metric LIMIT 1),
			(SELECT to_char(min(e.day), 'FMDay') FROM events e GROUP BY extract(isodow FROM e.day)
				HAVING sum(e.amount) > 0 ORDER BY sum(e.amount) DESC, extract(isodow FROM e.day) LIMIT 1)
		INTO total_usage, total_calls, unique_users, avg_usage_per_call, peak_usage_date, successful_calls,
			failed_calls, total_cost, most_used_metric, peak_weekday
		FROM calls c
		CROSS JOIN (SELECT sum(e.amount) AS amount, sum(e.cost) AS cost FROM events e) AS s;

	-- any usage at all is above so small a percentage
	SELECT trim_scale(round(avg(100 * n.used / n.limit_amount), 2)) INTO utilisation
		FROM quota.get_users_near_quota_limit(1e-30) AS n
		WHERE (v_metric IS NULL OR n.metric = v_metric) AND n.limit_amount > 0;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION quota.get_quota_statistics(text, integer) IS
'One row about the last p_days (1 to 365) times 24 hours, days in UTC, of a metric or of all. Usage is the net sum of the ledger, by when it was recorded, and counts once what parents were charged along; cost is that of every level. Calls are the decisions of the audit log, without replays and admin acts; unique_users made them; avg_usage_per_call is usage by successful call. The peaks and most_used_metric have the most net usage, NULL where there is none. utilisation is the mean percentage of its finite limit that an account with usage has used in its current period';
