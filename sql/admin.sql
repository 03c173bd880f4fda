-- ---------------------------------------------------------------------------
-- Admin acts: overrides and usage of a subject
--
-- Every act checks all its arguments before it writes, locks the row that it
-- replaces before it reads the old values, and leaves one row in
-- quota_audit_log.  The functions run as the owner of the extension: EXECUTE
-- is the permission (see grant_access).
-- ---------------------------------------------------------------------------

-- What the acts share --------------------------------------------------------

CREATE FUNCTION quota.checked_user(p_user_id uuid) RETURNS uuid
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF p_user_id IS NULL THEN
		RAISE EXCEPTION 'user id must not be null'
			USING ERRCODE = '22023',
				HINT = 'Pass the uuid of the user, team or tenant.';
	END IF;
	RETURN p_user_id;
END
$$;
COMMENT ON FUNCTION quota.checked_user(uuid) IS
'Returns its argument if it names a subject; raises 22023 when it is null';

CREATE FUNCTION quota.checked_expiry(p_expires_at timestamptz) RETURNS timestamptz
	LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_now	timestamptz := quota.clock();
BEGIN
	IF NOT isfinite(p_expires_at) THEN
		RAISE EXCEPTION 'expiry must be finite'
			USING ERRCODE = '22023',
				DETAIL = format('The expiry is %s.', p_expires_at),
				HINT = 'Pass NULL for something that never expires.';
	ELSIF p_expires_at <= v_now THEN
		RAISE EXCEPTION 'expiry must be in the future'
			USING ERRCODE = '22023',
				DETAIL = format('The expiry is %s, now is %s.', p_expires_at, v_now),
				HINT = 'Pass a later instant, or NULL for something that never expires.';
	END IF;
	RETURN p_expires_at;
END
$$;
COMMENT ON FUNCTION quota.checked_expiry(timestamptz) IS
'Returns its argument if it is an expiry: NULL (never) or a finite instant in the future; raises 22023 otherwise';

CREATE FUNCTION quota.checked_write(p_id uuid, p_table text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF p_id IS NULL THEN
		RAISE EXCEPTION 'row of % could not be written', p_table
			USING ERRCODE = '27000',
				DETAIL = 'A trigger suppressed it, or others deleted it each time that it was found.',
				HINT = 'BEFORE triggers on the tables of quota must return a row.';
	END IF;
END
$$;
COMMENT ON FUNCTION quota.checked_write(uuid, text) IS
'Raises 27000 for a row that an act has tried in vain to write';

CREATE FUNCTION quota.record_admin_act(
	p_at timestamptz,
	p_action text,
	p_user_id uuid,
	p_reason text,
	p_detail jsonb,
	p_metric text DEFAULT NULL,
	p_period text DEFAULT NULL,
	p_amount numeric DEFAULT NULL,
	p_limit_amount numeric DEFAULT NULL)
	RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH written AS (
		INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
				plan_limit, period, action, actor, detail, created_at)
		VALUES (quota.new_id(p_at), p_user_id, p_metric, p_amount, true, coalesce(p_reason, p_action),
				p_limit_amount, p_period, p_action, session_user::text, p_detail, p_at)
		RETURNING id
	)
	SELECT quota.checked_write((SELECT id FROM written), 'quota.quota_audit_log')
$$;
COMMENT ON FUNCTION quota.record_admin_act(timestamptz, text, uuid, text, jsonb, text, text, numeric, numeric) IS
'Writes the audit row of an admin act; the reason is the action''s name when none was given';

CREATE FUNCTION quota.close_ended_periods(p_user_id uuid, p_metric text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_metric	text;
BEGIN
	-- only what rolls over depends on it
	IF NOT EXISTS (SELECT FROM quota.plan_limits l WHERE l.rollover_max IS NOT NULL) THEN
		RETURN;
	END IF;
	FOR v_metric IN
		SELECT DISTINCT t.metric
		FROM quota.usage_tracking t
		WHERE t.user_id = p_user_id AND t.period_end <= quota.clock()
			AND (p_metric IS NULL OR t.metric = p_metric)
		ORDER BY t.metric
	LOOP
		PERFORM quota.tidy_account(p_user_id, v_metric);
	END LOOP;
END
$$;
COMMENT ON FUNCTION quota.close_ended_periods(uuid, text) IS
'Closes the periods of a subject that are over, by the limits that they were used under, before an act changes these';

-- Overrides --------------------------------------------------------------------

CREATE FUNCTION quota.set_limit_override(
	p_user_id uuid,
	p_metric text,
	p_limit_amount numeric,
	p_expires_at timestamptz DEFAULT NULL,
	p_reason text DEFAULT NULL,
	p_period text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_metric	text;
	v_period	text;
	v_old		quota.limit_overrides;
	v_id		uuid;
	v_now		timestamptz;
BEGIN
	PERFORM quota.checked_user(p_user_id);
	v_metric := quota.resolve_metric(p_metric);
	v_period := quota.canonical_period(p_period);
	PERFORM quota.valid_limit(p_limit_amount);
	PERFORM quota.checked_expiry(p_expires_at);
	PERFORM quota.close_ended_periods(p_user_id, v_metric);

	-- locked before it is read, as in assign_plan
	FOR i IN 1 .. 10 LOOP
		SELECT * INTO v_old
			FROM quota.limit_overrides
			WHERE user_id = p_user_id AND metric = v_metric AND coalesce(period, '') = coalesce(v_period, '')
			FOR NO KEY UPDATE;
		v_now := quota.clock();

		IF v_old.id IS NOT NULL THEN
			UPDATE quota.limit_overrides
				SET limit_amount = p_limit_amount,
					expires_at = p_expires_at,
					reason = p_reason,
					created_at = v_now
				WHERE id = v_old.id
				RETURNING id INTO v_id;
		ELSE
			INSERT INTO quota.limit_overrides (user_id, metric, period, limit_amount, expires_at, reason, created_at)
				VALUES (p_user_id, v_metric, v_period, p_limit_amount, p_expires_at, p_reason, v_now)
				ON CONFLICT (user_id, metric, (coalesce(period, ''))) DO NOTHING
				RETURNING id INTO v_id;
		END IF;
		EXIT WHEN FOUND;
	END LOOP;
	PERFORM quota.checked_write(v_id, 'quota.limit_overrides');

	PERFORM quota.record_admin_act(v_now, 'set_limit_override', p_user_id, p_reason,
		jsonb_build_object(
			'old', CASE WHEN v_old.id IS NOT NULL THEN
				jsonb_build_object('limit_amount', v_old.limit_amount, 'expires_at', v_old.expires_at)
			END,
			'new', jsonb_build_object('limit_amount', p_limit_amount, 'expires_at', p_expires_at)),
		p_metric => v_metric,
		p_period => v_period,
		p_limit_amount => p_limit_amount);
END
$$;
COMMENT ON FUNCTION quota.set_limit_override(uuid, text, numeric, timestamptz, text, text) IS
'Gives a subject a limit of its own (NULL = unlimited) that goes before the plan''s until it expires; p_period NULL = the allowance';

CREATE FUNCTION quota.clear_limit_override(
	p_user_id uuid,
	p_metric text,
	p_reason text DEFAULT NULL,
	p_period text DEFAULT NULL)
	RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_metric	text;
	v_period	text;
	v_old		quota.limit_overrides;
BEGIN
	PERFORM quota.checked_user(p_user_id);
	v_metric := quota.resolve_metric(p_metric);
	v_period := quota.canonical_period(p_period);
	PERFORM quota.close_ended_periods(p_user_id, v_metric);

	DELETE FROM quota.limit_overrides
		WHERE user_id = p_user_id AND metric = v_metric AND coalesce(period, '') = coalesce(v_period, '')
		RETURNING * INTO v_old;

	PERFORM quota.record_admin_act(quota.clock(), 'clear_limit_override', p_user_id, p_reason,
		jsonb_build_object(
			'old', CASE WHEN v_old.id IS NOT NULL THEN
				jsonb_build_object('limit_amount', v_old.limit_amount, 'expires_at', v_old.expires_at)
			END,
			'new', NULL),
		p_metric => v_metric,
		p_period => v_period);
	RETURN v_old.id IS NOT NULL;
END
$$;
COMMENT ON FUNCTION quota.clear_limit_override(uuid, text, text, text) IS
'Takes an override back, so that the plan''s limit counts again; true if there was one (expired ones too)';

-- Usage ------------------------------------------------------------------------

CREATE FUNCTION quota.checked_reason(p_reason text) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF coalesce(p_reason, '') !~ '\S' THEN
		RAISE EXCEPTION 'reason must not be null or empty'
			USING ERRCODE = '22023',
				HINT = 'Say why, for whoever reads quota.quota_audit_log: p_reason => ''...''.';
	END IF;
	RETURN p_reason;
END
$$;
COMMENT ON FUNCTION quota.checked_reason(text) IS
'Returns its argument if it is a reason; raises 22023 when it is null, empty or blank';

CREATE FUNCTION quota.reset_counters(p_user_id uuid, p_metric text)
	RETURNS TABLE (metric text, old_value numeric)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- in the order in which the engine locks accounts
	FOR metric IN
		SELECT m.metric
		FROM quota.metrics m
		WHERE m.metric = p_metric
			OR p_metric IS NULL AND m.kind = 'counter'
			AND EXISTS (SELECT FROM quota.usage_tracking t WHERE t.user_id = p_user_id AND t.metric = m.metric)
		ORDER BY m.metric
	LOOP
		old_value := 0 - (quota.reset_account(p_user_id, metric)).granted;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION quota.reset_counters(uuid, text) IS
'Ends the current period of a subject''s counters (NULL: all that have an account) now, and tells what was counted in it';

CREATE FUNCTION quota.reset_user_quota(
	p_user_id uuid,
	p_metric text DEFAULT NULL,
	p_reason text DEFAULT NULL)
	RETURNS TABLE (metric text, old_value numeric, new_value numeric)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_metric	text;
	v_kind		text;
BEGIN
	PERFORM quota.checked_user(p_user_id);
	PERFORM quota.checked_reason(p_reason);
	IF p_metric IS NOT NULL THEN
		v_metric := quota.resolve_metric(p_metric);
		SELECT m.kind INTO v_kind FROM quota.metrics m WHERE m.metric = v_metric;
		IF v_kind <> 'counter' THEN
			RAISE EXCEPTION 'metric "%" is a %, which has no period to reset', v_metric, v_kind
				USING ERRCODE = '22023',
					HINT = 'Correct the level of a gauge with quota.set_gauge or quota.adjust_usage.';
		END IF;
	END IF;

	FOR metric, old_value IN SELECT r.metric, r.old_value FROM quota.reset_counters(p_user_id, v_metric) AS r LOOP
		new_value := 0;
		PERFORM quota.record_admin_act(quota.clock(), 'reset_user_quota', p_user_id, p_reason,
			jsonb_build_object(
				'old', jsonb_build_object('used', trim_scale(old_value)),
				'new', jsonb_build_object('used', new_value)),
			p_metric => metric);
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION quota.reset_user_quota(uuid, text, text) IS
'Ends the current period of a counter now, so that its count starts again (until the period''s end as before); p_metric NULL = all counters of the subject, not its gauges. One row for each, with all units counted before: allowance, bonuses and overage';

CREATE FUNCTION quota.adjust_usage(
	p_user_id uuid,
	p_metric text,
	p_delta numeric,
	p_reason text)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_metric	text;
	v_outcome	quota.outcome;
BEGIN
	PERFORM quota.checked_user(p_user_id);
	v_metric := quota.resolve_metric(p_metric);
	IF p_delta IS NULL OR p_delta = 0 THEN
		RAISE EXCEPTION 'delta must not be null or zero'
			USING ERRCODE = '22023',
				HINT = 'Pass units to add to what is used, or negative ones to take away.';
	END IF;
	PERFORM quota.checked_amount(abs(p_delta));
	PERFORM quota.checked_reason(p_reason);

	v_outcome := quota.adjust_account(p_user_id, v_metric, p_delta);
	IF NOT v_outcome.allowed THEN
		-- no limit, no account
		RAISE EXCEPTION 'metric "%" is not in the plan of the subject', v_metric
			USING ERRCODE = '22023',
				DETAIL = format('The subject is %s.', p_user_id),
				HINT = 'Usage can be adjusted where a plan or an override sets a limit.';
	END IF;

	-- the binding window may be another one than the allowance, which was adjusted
	SELECT s.period, s.used, s.limit_amount, s.remaining, s.period_start, s.resets_at
		INTO v_outcome.period, v_outcome.used, v_outcome.limit_amount, v_outcome.remaining,
			v_outcome.period_start, v_outcome.resets_at
		FROM quota.usage_events e
		JOIN quota.get_user_quota_status(p_user_id) AS s
			ON s.limit_user_id = e.user_id AND s.metric = e.metric AND s.period = e.period
		WHERE e.id = v_outcome.event_id;

	PERFORM quota.record_admin_act(quota.clock(), 'adjust_usage', p_user_id, p_reason,
		jsonb_build_object(
			'old', jsonb_build_object('used', trim_scale(v_outcome.used - p_delta)),
			'new', jsonb_build_object('used', trim_scale(v_outcome.used)),
			'event_id', v_outcome.event_id),
		p_metric => v_metric,
		p_period => v_outcome.period,
		p_amount => p_delta,
		p_limit_amount => v_outcome.limit_amount);
	RETURN v_outcome;
END
$$;
COMMENT ON FUNCTION quota.adjust_usage(uuid, text, numeric, text) IS
'Adds units (negative: takes them away) to what a subject has used of its allowance in the current period, whatever the limit; never below 0. The outcome tells of the allowance';
