-- ---------------------------------------------------------------------------
-- Recurring bonuses: units that a subject gets anew in each period
-- ---------------------------------------------------------------------------

CREATE FUNCTION quota.set_recurring_bonus(
	p_user_id uuid,
	p_metric text,
	p_amount numeric,
	p_period text DEFAULT 'month',
	p_reason text DEFAULT NULL,
	p_anchor timestamptz DEFAULT NULL,
	p_accumulates boolean DEFAULT false,
	p_priority integer DEFAULT 50,
	p_ends_at timestamptz DEFAULT NULL)
	RETURNS uuid
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_metric	text;
	v_period	text;
	v_now		timestamptz;
	v_id		uuid;
BEGIN
	PERFORM quota.checked_user(p_user_id);
	v_metric := quota.resolve_metric(p_metric);
	PERFORM quota.checked_amount(p_amount);
	v_period := quota.canonical_period(p_period);
	IF v_period IS NULL OR v_period = 'lifetime' THEN
		RAISE EXCEPTION 'a recurring bonus needs a period that ends'
			USING ERRCODE = '22023',
				HINT = 'Pass month, week, "2 weeks" and the like; grant_bonus gives once.';
	END IF;
	IF p_anchor NOT BETWEEN '0001-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN
		RAISE EXCEPTION 'anchor must be in the years 1 to 9999'
			USING ERRCODE = '22023',
				DETAIL = format('The anchor is %s.', p_anchor),
				HINT = 'Pass the first instant of the first period, or NULL for now.';
	END IF;
	IF p_accumulates IS NULL OR p_priority IS NULL THEN
		RAISE EXCEPTION '% must not be null', CASE WHEN p_priority IS NULL THEN 'priority' ELSE 'accumulates' END
			USING ERRCODE = '22023',
				HINT = 'Leave the argument out for its default.';
	END IF;
	PERFORM quota.checked_expiry(p_ends_at);

	v_now := quota.clock();
	INSERT INTO quota.recurring_bonuses (user_id, metric, amount, period, anchor, accumulates, priority, ends_at, reason, created_at)
		VALUES (p_user_id, v_metric, p_amount, v_period, coalesce(p_anchor, v_now), p_accumulates, p_priority, p_ends_at, p_reason, v_now)
		RETURNING id INTO v_id;
	PERFORM quota.checked_write(v_id, 'quota.recurring_bonuses');
	PERFORM quota.record_admin_act(v_now, 'set_recurring_bonus', p_user_id, p_reason,
		jsonb_build_object('old', NULL, 'new', jsonb_build_object('recurring_id', v_id, 'amount', p_amount,
			'period', v_period, 'accumulates', p_accumulates, 'priority', p_priority, 'ends_at', p_ends_at)),
		p_metric => v_metric,
		p_period => v_period,
		p_amount => p_amount);
	RETURN v_id;
END
$$;
COMMENT ON FUNCTION quota.set_recurring_bonus(uuid, text, numeric, text, text, timestamptz, boolean, integer, timestamptz) IS
'Gives a subject units of a metric anew in each period, from p_anchor (NULL = now) on; they end with their period unless they accumulate; returns the id of the recurring bonus';

CREATE FUNCTION quota.stop_recurring_bonus(p_recurring_id uuid, p_reason text DEFAULT NULL) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_old	quota.recurring_bonuses;
	v_now	timestamptz;
BEGIN
	IF p_recurring_id IS NULL THEN
		RAISE EXCEPTION 'recurring bonus must not be null'
			USING ERRCODE = '22023',
				HINT = 'Pass the id that set_recurring_bonus returned.';
	END IF;
	SELECT * INTO v_old FROM quota.recurring_bonuses WHERE id = p_recurring_id FOR NO KEY UPDATE;
	IF v_old.id IS NULL THEN
		RAISE EXCEPTION 'unknown recurring bonus'
			USING ERRCODE = '22023',
				DETAIL = format('No recurring bonus has the id %s.', p_recurring_id),
				HINT = 'Pass the id that set_recurring_bonus returned.';
	END IF;
	v_now := quota.clock();
	IF v_old.ends_at <= v_now THEN
		RETURN false;
	END IF;
	UPDATE quota.recurring_bonuses SET ends_at = v_now WHERE id = p_recurring_id;
	PERFORM quota.record_admin_act(v_now, 'stop_recurring_bonus', v_old.user_id, p_reason,
		jsonb_build_object('old', jsonb_build_object('ends_at', v_old.ends_at), 'new', jsonb_build_object('ends_at', v_now)),
		p_metric => v_old.metric,
		p_period => v_old.period);
	RETURN true;
END
$$;
COMMENT ON FUNCTION quota.stop_recurring_bonus(uuid, text) IS
'Ends a recurring bonus: what was given stays, nothing more is; false if it had ended already';
