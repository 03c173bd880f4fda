-- ---------------------------------------------------------------------------
-- Acts on many subjects: those that a query returns
--
-- The query is the caller's, so it runs with the caller's rights and search
-- path, never the owner's: nothing here is SECURITY DEFINER.  What it does to
-- each subject is the act that an admin would call for it, with the same
-- checks and the same audit row.
--
-- A dry run does all that, tells what it did, and undoes it: it cannot say
-- anything else than the real run would.
-- ---------------------------------------------------------------------------

CREATE FUNCTION quota.bulk_subjects(p_query text, p_search_path text) RETURNS uuid[]
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_subjects	uuid[];
	v_nulls		bigint;
BEGIN
	IF coalesce(p_query, '') !~ '\S' THEN
		RAISE EXCEPTION 'query must not be null or empty'
			USING ERRCODE = '22023',
				HINT = 'Pass a query that returns the uuids of subjects, such as: SELECT user_id FROM quota.subscriptions WHERE plan = ''free''.';
	END IF;

	-- until this function returns
	PERFORM set_config('search_path', p_search_path, true);
	BEGIN
		-- as a subquery it can be nothing but a query
		EXECUTE format(E'SELECT pg_catalog.array_agg(DISTINCT q.s ORDER BY q.s) FILTER (WHERE q.s IS NOT NULL), '
				'pg_catalog.count(*) FILTER (WHERE q.s IS NULL) '
				'FROM (SELECT r.s::pg_catalog.uuid AS s FROM (\n%s\n) AS r (s)) AS q',
				rtrim(p_query, E'; \t\r\n'))
			INTO v_subjects, v_nulls;
	EXCEPTION WHEN syntax_error_or_access_rule_violation OR data_exception OR feature_not_supported THEN
		IF SQLSTATE = '42501' THEN
			RAISE;
		END IF;
		RAISE EXCEPTION 'query of subjects failed'
			USING ERRCODE = '22023',
				DETAIL = format('%s (SQLSTATE %s)', SQLERRM, SQLSTATE),
				HINT = 'Pass one SELECT that returns one column of type uuid.';
	END;
	IF v_nulls > 0 THEN
		RAISE EXCEPTION 'query of subjects returned NULL'
			USING ERRCODE = '22023',
				DETAIL = format('%s of its rows name no subject.', v_nulls),
				HINT = 'Leave them out: ... WHERE user_id IS NOT NULL.';
	END IF;
	RETURN coalesce(v_subjects, '{}');
END
$$;
COMMENT ON FUNCTION quota.bulk_subjects(text, text) IS
'Part of the bulk acts: the subjects that a query returns, each once and in order; raises 22023 if it is no such query';

-- p_act is a statement of the functions below: for the subject $1 it returns what
-- was changed, the value before and the value after.  Where the act itself cannot
-- tell, p_value asks for the value of p_item before and after it.
CREATE FUNCTION quota.bulk_act(
	p_query text,
	p_search_path text,
	p_dry_run boolean,
	p_act text,
	p_item text DEFAULT NULL,
	p_value text DEFAULT NULL)
	RETURNS TABLE (user_id uuid, item text, old_value text, new_value text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_subjects	uuid[];
	v_sqlstate	text;
	v_message	text;
	v_detail	text;
	v_hint		text;
BEGIN
	IF p_dry_run IS NULL THEN
		RAISE EXCEPTION 'dry run must not be null'
			USING ERRCODE = '22023',
				HINT = 'Pass true to see what would change, false to change it.';
	END IF;
	v_subjects := quota.bulk_subjects(p_query, p_search_path);

	BEGIN
		-- in the order of their ids, so that two bulk acts cannot wait for each other
		FOREACH user_id IN ARRAY v_subjects LOOP
			IF p_value IS NULL THEN
				FOR item, old_value, new_value IN EXECUTE p_act USING user_id LOOP
					RETURN NEXT;
				END LOOP;
			ELSE
				item := p_item;
				EXECUTE p_value INTO old_value USING user_id;
				EXECUTE p_act USING user_id;
				EXECUTE p_value INTO new_value USING user_id;
				RETURN NEXT;
			END IF;
		END LOOP;
		IF p_dry_run THEN
			-- not QU000: that would stand for the whole class
			RAISE EXCEPTION USING ERRCODE = 'QU999';
		END IF;
	EXCEPTION
		WHEN SQLSTATE 'QU999' THEN
			NULL;			-- all is undone but the rows that tell of it
		WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS v_sqlstate = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT,
				v_detail = PG_EXCEPTION_DETAIL, v_hint = PG_EXCEPTION_HINT;
			RAISE EXCEPTION '%', v_message
				USING ERRCODE = v_sqlstate,
					DETAIL = concat_ws(' ', nullif(v_detail, ''), format('The subject is %s; no subject was changed.', user_id)),
					HINT = v_hint;
	END;
END
$$;
COMMENT ON FUNCTION quota.bulk_act(text, text, boolean, text, text, text) IS
'Part of the bulk acts: runs one for each subject that a query returns, all or none, as the caller; a dry run undoes it';

-- Bodies that are parsed now look no names up later, so that these need no search
-- path of their own, and hand on the caller's.

CREATE FUNCTION quota.bulk_reset_quota(
	p_query text,
	p_metric text DEFAULT NULL,
	p_reason text DEFAULT NULL,
	p_dry_run boolean DEFAULT true)
	RETURNS TABLE (user_id uuid, metric text, old_value numeric, new_value numeric, changed boolean)
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT b.user_id, b.item, b.old_value::numeric, b.new_value::numeric, b.old_value::numeric <> b.new_value::numeric
	FROM quota.bulk_act(p_query, current_setting('search_path'), p_dry_run,
		format('SELECT metric, trim_scale(old_value)::text, new_value::text FROM quota.reset_user_quota($1, %L, %L)', p_metric, p_reason)) AS b;
END;
COMMENT ON FUNCTION quota.bulk_reset_quota(text, text, text, boolean) IS
'reset_user_quota for every subject that a query returns; a dry run, which is the default, changes nothing and returns what would change';

CREATE FUNCTION quota.bulk_adjust_usage(
	p_query text,
	p_metric text,
	p_delta numeric,
	p_reason text,
	p_dry_run boolean DEFAULT true)
	RETURNS TABLE (user_id uuid, metric text, old_value numeric, new_value numeric, changed boolean)
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT b.user_id, b.item, b.old_value::numeric, b.new_value::numeric, b.old_value::numeric <> b.new_value::numeric
	FROM quota.bulk_act(p_query, current_setting('search_path'), p_dry_run,
		format('SELECT metric, trim_scale(used - granted)::text, trim_scale(used)::text FROM quota.adjust_usage($1, %L, %L, %L)', p_metric, p_delta, p_reason)) AS b;
END;
COMMENT ON FUNCTION quota.bulk_adjust_usage(text, text, numeric, text, boolean) IS
'adjust_usage for every subject that a query returns; a dry run, which is the default, changes nothing and returns what would change';

CREATE FUNCTION quota.bulk_assign_plan(
	p_query text,
	p_plan text,
	p_strategy text DEFAULT 'keep',
	p_reason text DEFAULT NULL,
	p_dry_run boolean DEFAULT true)
	RETURNS TABLE (user_id uuid, plan text, old_value text, new_value text, changed boolean)
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	-- the plan that the subject has, or that is due for it
	SELECT b.user_id, b.item, b.old_value, b.new_value, b.old_value IS DISTINCT FROM b.new_value
	FROM quota.bulk_act(p_query, current_setting('search_path'), p_dry_run,
		format('SELECT quota.assign_plan($1, %L, %L, p_reason => %L)', p_plan, p_strategy, p_reason),
		p_plan, 'SELECT quota.current_plan($1, true)') AS b;
END;
COMMENT ON FUNCTION quota.bulk_assign_plan(text, text, text, text, boolean) IS
'assign_plan for every subject that a query returns; a dry run, which is the default, changes nothing and returns what would change. The values are the plans, for at_period_end those that are due';

CREATE FUNCTION quota.bulk_grant_bonus(
	p_query text,
	p_metric text,
	p_amount numeric,
	p_expires_at timestamptz DEFAULT NULL,
	p_reason text DEFAULT NULL,
	p_priority integer DEFAULT 50,
	p_source text DEFAULT 'promotional',
	p_dry_run boolean DEFAULT true)
	RETURNS TABLE (user_id uuid, metric text, old_value numeric, new_value numeric, changed boolean)
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
	SELECT b.user_id, b.item, b.old_value::numeric, b.new_value::numeric, b.old_value::numeric <> b.new_value::numeric
	FROM quota.bulk_act(p_query, current_setting('search_path'), p_dry_run,
		format('SELECT quota.grant_bonus($1, %L, %L, %L, %L, %L, %L)', p_metric, p_amount, p_expires_at, p_reason, p_priority, p_source),
		quota.resolve_metric(p_metric),
		format('SELECT trim_scale(coalesce(sum(amount - used_amount - held_amount - given_amount), 0))::text FROM quota.user_bonuses
			WHERE user_id = $1 AND metric = %L AND voided_at IS NULL AND (expires_at IS NULL OR expires_at > quota.clock())',
			quota.resolve_metric(p_metric))) AS b;
END;
COMMENT ON FUNCTION quota.bulk_grant_bonus(text, text, numeric, timestamptz, text, integer, text, boolean) IS
'grant_bonus for every subject that a query returns; a dry run, which is the default, changes nothing and returns what would change. The values are the units of usable bonuses';
