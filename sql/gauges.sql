-- ---------------------------------------------------------------------------
-- Gauges and the tables that they count
--
-- A gauge that enforce_quota keeps is right by construction.  One that was
-- switched on over a table with rows in it, or that an application keeps by
-- calls, is compared here with the rows themselves.
-- ---------------------------------------------------------------------------

-- Runs as its caller, unlike the other admin acts: who may not read the table
-- learns nothing of it from here.  Row security must not hide rows from the count,
-- so where it would, the count fails.
CREATE FUNCTION quota.reconcile_gauge(
	p_metric text,
	p_relation regclass,
	p_user_column name DEFAULT 'user_id',
	p_amount_column name DEFAULT NULL,
	p_apply boolean DEFAULT false)
	RETURNS TABLE (user_id uuid, recorded numeric, counted numeric, drift numeric)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET row_security = off
AS $$
#variable_conflict use_column
DECLARE
	v_metric	text := quota.resolve_metric(p_metric);
	v_column	name;
	v_type		regtype;
	v_row		record;
	v_level		numeric;
	v_users		uuid[] := '{}';
	v_recorded	numeric[] := '{}';
	v_counted	numeric[] := '{}';
	v_depths	integer[] := '{}';
	v_level_of CONSTANT text := $sql$
		SELECT coalesce(a.used + a.bonus_used + a.overage, 0)
			FROM quota.get_user_quota_status($1) AS s
			LEFT JOIN quota.usage_tracking AS a ON a.user_id = $1 AND a.metric = s.metric AND a.period = s.period
			WHERE s.limit_user_id = $1 AND s.metric = $2
			ORDER BY quota.period_length(s.period) DESC LIMIT 1 $sql$;
BEGIN
	IF (SELECT kind FROM quota.metrics WHERE metric = v_metric) <> 'gauge' THEN
		RAISE EXCEPTION 'metric "%" is not a gauge', v_metric
			USING ERRCODE = '22023',
				DETAIL = 'Only a level can be counted again.',
				HINT = 'Use adjust_usage for a counter.';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_class WHERE oid = p_relation AND relkind IN ('r', 'p', 'v', 'm', 'f')) THEN
		RAISE EXCEPTION 'relation % cannot be counted', coalesce(p_relation::text, 'NULL')
			USING ERRCODE = '22023',
				HINT = 'Pass the table or view whose rows the gauge counts.';
	END IF;

	FOREACH v_column IN ARRAY ARRAY[coalesce(p_user_column, ''), p_amount_column] LOOP
		CONTINUE WHEN v_column IS NULL;
		v_type := NULL;
		SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END INTO v_type
			FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
			WHERE a.attrelid = p_relation AND a.attname = v_column AND a.attnum > 0 AND NOT a.attisdropped;
		IF v_type IS NULL THEN
			RAISE EXCEPTION 'column "%" of relation % does not exist', v_column, p_relation
				USING ERRCODE = '22023',
					HINT = 'Name the column with the subject, and the one with the amount if rows differ in what they use.';
		ELSIF v_column = p_user_column AND v_type <> 'uuid'::regtype THEN
			RAISE EXCEPTION 'column "%" of relation % is not of type uuid', v_column, p_relation
				USING ERRCODE = '22023',
					HINT = 'Subjects are uuids; a view can make others into such.';
		ELSIF v_column = p_amount_column
			AND v_type NOT IN ('numeric'::regtype, 'smallint'::regtype, 'integer'::regtype, 'bigint'::regtype) THEN
			RAISE EXCEPTION 'column "%" of relation % is neither numeric nor an integer', v_column, p_relation
				USING ERRCODE = '22023',
					HINT = 'Amounts must be exact.';
		END IF;
	END LOOP;

	-- What is counted must be the whole truth until the gauges are set.  A snapshot from
	-- before the lock may miss rows: set_gauge finds that out by itself where the same
	-- snapshot rules for it (40001).
	IF p_apply THEN
		IF current_setting('transaction_isolation') <> 'read committed' AND current_setting('quota.isolation') = 'latest' THEN
			RAISE EXCEPTION 'gauges cannot be set to what an older snapshot counts'
				USING ERRCODE = '25000',
					DETAIL = format('The transaction is %s, and quota.isolation is "latest".', upper(current_setting('transaction_isolation'))),
					HINT = 'Call it in a READ COMMITTED transaction.';
		END IF;
		EXECUTE format('LOCK TABLE %s IN SHARE MODE', p_relation);
	END IF;

	-- A row counts for the subject that it names, and for that one's parents.  Who
	-- has no limit has no gauge, so it is left out, unless that goes for the parents
	-- too and the row is counted nowhere.
	FOR v_row IN EXECUTE format($sql$
		WITH RECURSIVE rows AS (
			SELECT %1$I::uuid AS user_id, %2$s AS amount FROM %3$s WHERE %1$I IS NOT NULL GROUP BY 1
		), levels AS (
			SELECT user_id, user_id AS owner, amount, 0 AS level FROM rows
			UNION ALL
			SELECT s.parent, l.owner, l.amount, l.level + 1
				FROM levels AS l JOIN quota.subscriptions AS s ON s.user_id = l.user_id
				WHERE s.parent IS NOT NULL AND l.level < 8
		), subjects AS (
			SELECT user_id FROM levels UNION SELECT user_id FROM quota.usage_tracking WHERE metric = $1
		), gauges AS (
			SELECT user_id, (%4$s) AS level
				FROM (SELECT user_id, $1 AS metric FROM subjects OFFSET 0) AS subject
		), homeless AS (
			SELECT owner FROM levels JOIN gauges AS g USING (user_id) GROUP BY owner HAVING bool_and(g.level IS NULL)
		)
		SELECT g.user_id, coalesce(g.level, 0) AS recorded, coalesce(sum(l.amount), 0) AS counted,
				(WITH RECURSIVE up AS (
					SELECT s.parent, 1 AS n FROM quota.subscriptions AS s WHERE s.user_id = g.user_id AND s.parent IS NOT NULL
					UNION ALL
					SELECT s.parent, n + 1 FROM up JOIN quota.subscriptions AS s ON s.user_id = up.parent
						WHERE s.parent IS NOT NULL AND n < 8)
				SELECT count(*)::integer FROM up) AS depth
			FROM gauges AS g LEFT JOIN levels AS l USING (user_id)
			WHERE g.level IS NOT NULL OR g.user_id IN (SELECT owner FROM homeless)
			GROUP BY g.user_id, g.level
			ORDER BY g.user_id $sql$,
			p_user_column,
			CASE WHEN p_amount_column IS NULL THEN 'count(*)::numeric' ELSE format('coalesce(sum(%I), 0)::numeric', p_amount_column) END,
			p_relation,
			replace(replace(v_level_of, '$1', 'subject.user_id'), '$2', 'subject.metric'))
		USING v_metric
	LOOP
		v_users := v_users || v_row.user_id;
		v_recorded := v_recorded || v_row.recorded;
		v_counted := v_counted || v_row.counted;
		v_depths := v_depths || v_row.depth;
	END LOOP;

	IF p_apply THEN
		-- In the order of locking first.  That moves the parents along, also those that
		-- were set before; so members before their parents in a second round, which finds
		-- all locked by now.
		FOR v_row IN
			SELECT u.user_id, u.counted
				FROM unnest(v_users, v_counted, v_depths) AS u (user_id, counted, depth), generate_series(1, 2) AS round
				WHERE round = 1 OR 0 < ANY (v_depths)
				ORDER BY round, CASE WHEN round = 2 THEN -u.depth END, u.user_id
		LOOP
			EXECUTE v_level_of INTO v_level USING v_row.user_id, v_metric;
			IF v_level <> v_row.counted THEN
				PERFORM quota.set_gauge(v_row.user_id, v_metric, v_row.counted, 'reconcile_gauge: ' || p_relation);
			END IF;
		END LOOP;
	END IF;

	RETURN QUERY
		SELECT u.user_id, u.recorded, u.counted, u.recorded - u.counted
			FROM unnest(v_users, v_recorded, v_counted) AS u (user_id, recorded, counted)
			WHERE u.recorded <> u.counted
			ORDER BY u.user_id;
END
$$;
COMMENT ON FUNCTION quota.reconcile_gauge(text, regclass, name, name, boolean) IS
'Counts again what a gauge should be, from the rows of a table (or the sum of an amount column) by subject, parents included; returns those that differ, drift = recorded - counted, and with p_apply sets them right';
