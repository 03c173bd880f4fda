-- ---------------------------------------------------------------------------
-- Admin acts: plans and overrides of a subject
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

-- Plans ------------------------------------------------------------------------

CREATE FUNCTION quota.assign_plan(
	p_user_id uuid,
	p_plan text,
	p_strategy text DEFAULT 'keep',
	p_anchor timestamptz DEFAULT NULL,
	p_time_zone text DEFAULT NULL,
	p_reason text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_old	quota.subscriptions;
	v_new	quota.subscriptions;
	v_now	timestamptz;
BEGIN
	PERFORM quota.checked_user(p_user_id);

	IF p_plan IS NULL OR p_plan = '' THEN
		RAISE EXCEPTION 'plan must not be null or empty'
			USING ERRCODE = '22023',
				HINT = 'Pass the name of a row in quota.plans.';
	END IF;
	IF p_strategy IS DISTINCT FROM 'keep' THEN
		RAISE EXCEPTION 'unknown strategy %', coalesce('"' || p_strategy || '"', 'NULL')
			USING ERRCODE = '22023',
				HINT = 'The strategy is "keep": what was used so far counts against the limits of the new plan, window by window.';
	END IF;
	-- as the table has it: periods can be counted from there without leaving time's bounds
	IF p_anchor NOT BETWEEN '0001-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN
		RAISE EXCEPTION 'anchor must be in the years 1 to 9999'
			USING ERRCODE = '22023',
				DETAIL = format('The anchor is %s.', p_anchor),
				HINT = 'Pass an instant, or NULL to keep the present anchor.';
	END IF;
	PERFORM quota.valid_time_zone(p_time_zone);

	-- the lock keeps the plan from being deleted before the row below refers to it
	PERFORM 1 FROM quota.plans WHERE plan = p_plan FOR KEY SHARE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown plan "%"', p_plan
			USING ERRCODE = 'QU003',
				HINT = 'Plans are the rows of quota.plans; quota.load_preset adds the plans of a preset.';
	END IF;

	-- Lock the row before reading it, so that the old values in the log are
	-- those that this act replaces.  A first assignment that loses the race
	-- for the insert goes round again and finds the winner's row.
	FOR i IN 1 .. 10 LOOP
		SELECT * INTO v_old FROM quota.subscriptions WHERE user_id = p_user_id FOR NO KEY UPDATE;
		v_now := quota.clock();

		IF v_old.user_id IS NOT NULL THEN
			UPDATE quota.subscriptions
				SET plan = p_plan,
					anchor = coalesce(p_anchor, anchor),
					time_zone = coalesce(p_time_zone, time_zone),
					updated_at = v_now
				WHERE user_id = p_user_id
				RETURNING * INTO v_new;
		ELSE
			INSERT INTO quota.subscriptions (user_id, plan, anchor, time_zone, created_at, updated_at)
				VALUES (p_user_id, p_plan, coalesce(p_anchor, v_now), coalesce(p_time_zone, 'UTC'), v_now, v_now)
				ON CONFLICT (user_id) DO NOTHING
				RETURNING * INTO v_new;
		END IF;
		EXIT WHEN FOUND;
	END LOOP;
	PERFORM quota.checked_write(v_new.user_id, 'quota.subscriptions');

	PERFORM quota.record_admin_act(v_now, 'assign_plan', p_user_id, p_reason,
		jsonb_build_object(
			'strategy', p_strategy,
			'old', CASE WHEN v_old.user_id IS NOT NULL THEN
				jsonb_build_object('plan', v_old.plan, 'anchor', v_old.anchor, 'time_zone', v_old.time_zone)
			END,
			'new', jsonb_build_object('plan', v_new.plan, 'anchor', v_new.anchor, 'time_zone', v_new.time_zone)));
END
$$;
COMMENT ON FUNCTION quota.assign_plan(uuid, text, text, timestamptz, text, text) IS
'Puts a subject on a plan from now on; what it has used of a window counts against the new plan''s window of the same period (strategy "keep"), its anchor and time zone stay unless given';

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
