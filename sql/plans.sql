-- ---------------------------------------------------------------------------
-- Plans in motion: which plan a subject has, and how it gets another one
--
-- A change of plan that is due later (at_period_end) needs nobody to carry it
-- out: whoever asks for the plan of a subject takes pending_plan from
-- pending_at on.
-- ---------------------------------------------------------------------------

CREATE TABLE quota.plan_change_log (
	id				uuid PRIMARY KEY,
	user_id			uuid NOT NULL,
	old_plan		text COLLATE "C",
	new_plan		text COLLATE "C" NOT NULL,
	strategy		text COLLATE "C" NOT NULL,
	effective_at	timestamptz NOT NULL,
	actor			text NOT NULL,
	reason			text,
	detail			jsonb NOT NULL,
	created_at		timestamptz NOT NULL
);
COMMENT ON TABLE quota.plan_change_log IS
'Every change of a subject''s plan, one row each; append-only';
COMMENT ON COLUMN quota.plan_change_log.id IS 'UUID version 7 of created_at: ordered by time, so "id >= bound" selects by time';
COMMENT ON COLUMN quota.plan_change_log.user_id IS 'The subject';
COMMENT ON COLUMN quota.plan_change_log.old_plan IS 'The plan that counted before; NULL = none';
COMMENT ON COLUMN quota.plan_change_log.new_plan IS 'The plan that counts from effective_at on';
COMMENT ON COLUMN quota.plan_change_log.strategy IS 'keep, reset, prorate, additive or at_period_end';
COMMENT ON COLUMN quota.plan_change_log.effective_at IS 'When the new plan begins to count; later than created_at for at_period_end. A later row with "cancelled" in its detail may have called it off.';
COMMENT ON COLUMN quota.plan_change_log.actor IS 'Login role of whoever changed it';
COMMENT ON COLUMN quota.plan_change_log.reason IS 'What the admin wrote; NULL = nothing';
COMMENT ON COLUMN quota.plan_change_log.detail IS 'What the change did besides: limits for the rest of the period, counters that were reset, a change that it called off';
COMMENT ON COLUMN quota.plan_change_log.created_at IS 'When it was decided';

CREATE INDEX idx_plan_change_log_user ON quota.plan_change_log (user_id, id);
COMMENT ON INDEX quota.idx_plan_change_log_user IS 'Changes of a subject''s plan by time';

SELECT pg_catalog.pg_extension_config_dump('quota.plan_change_log', '');

CREATE FUNCTION quota.current_plan(p_user_id uuid, p_announced boolean DEFAULT false) RETURNS text
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_now		timestamptz := quota.clock();
	v_plan		text;
BEGIN
	PERFORM quota.checked_user(p_user_id);
	SELECT CASE WHEN s.pending_at <= v_now OR p_announced AND s.pending_at IS NOT NULL
			THEN s.pending_plan ELSE s.plan END INTO v_plan
		FROM quota.subscriptions s
		WHERE s.user_id = p_user_id;
	IF NOT FOUND THEN
		-- after the clock, which loads the library that defines the setting
		v_plan := nullif(current_setting('quota.default_plan', true), '');
	END IF;
	RETURN v_plan;
END
$$;
COMMENT ON FUNCTION quota.current_plan(uuid, boolean) IS
'The plan whose limits count for a subject now: its own, one that was due by now, or quota.default_plan where it has no subscription; NULL = none. p_announced: the one that is to follow, if there is any';

-- What the strategies do ---------------------------------------------------------

-- Overrides that a change of plan has set, until the end of a period.  Their
-- reason tells them from those that admins set.
CREATE FUNCTION quota.set_by_plan_change(p_override quota.limit_overrides) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT p_override.reason IN ('prorated', 'additive') AND p_override.expires_at IS NOT NULL
$$;
COMMENT ON FUNCTION quota.set_by_plan_change(quota.limit_overrides) IS
'True for an override that a change of plan has set for the rest of a period';

-- Every counter limit of the new plan that starts again gets, for the rest of
-- its current period,
--
--   prorate:  what the limit was, plus the difference between the plans for the
--             share of the period that remains:
--             limit + (new - old) * remaining share.
--             That is  new * remaining share + old * elapsed share,  and stays
--             right if the plan changes again within the period.
--             After an unlimited one: what was used, plus new * remaining share.
--   additive: the new limit on top of what was left of the old one, so that
--             remaining = new + (old - used, at least 0).  What was used goes on
--             counting, so the limit is  new + greatest(old, used).
--             After an unlimited one: unlimited until the period ends.
--
-- A limit that the old plan did not have was 0.  Unlimited stays unlimited.  An
-- override that somebody has set stays as it is and goes before all this, also
-- where it ends before the period does.  Windows that slide (sliding, gcra) have
-- no period of which a share could remain.
CREATE FUNCTION quota.adapt_limits(
	p_user_id uuid,
	p_old_plan text,
	p_new_plan text,
	p_strategy text,
	p_before jsonb,
	p_at timestamptz)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_row	record;
	v_limit	numeric;
	v_id	uuid;
	v_done	jsonb := '[]';
BEGIN
	FOR v_row IN
		SELECT n.metric, n.period, n.limit_amount AS new_limit, a.period = n.period AS is_allowance,
			CASE WHEN o.plan IS NULL THEN 0 ELSE o.limit_amount END AS old_limit,
			CASE WHEN b.metric IS NULL THEN 0 ELSE b.limit_amount END AS limit_before,
			s.used, s.resets_at,
			extract(epoch FROM s.resets_at - greatest(p_at, s.period_start))
				/ extract(epoch FROM s.resets_at - s.period_start) AS remaining_share
		FROM quota.plan_limits n
		JOIN quota.metrics m ON m.metric = n.metric AND m.kind = 'counter'
		JOIN quota.get_user_quota_status(p_user_id) AS s
			ON s.limit_user_id = p_user_id AND s.metric = n.metric AND s.period = n.period
		CROSS JOIN LATERAL (
			SELECT w.period
			FROM quota.plan_limits w
			WHERE w.plan = n.plan AND w.metric = n.metric
			ORDER BY quota.period_length(w.period) DESC, w.period
			LIMIT 1
		) AS a
		LEFT JOIN quota.plan_limits o ON o.plan = p_old_plan AND o.metric = n.metric AND o.period = n.period
		LEFT JOIN jsonb_to_recordset(p_before) AS b (metric text, period text, limit_amount numeric)
			ON b.metric = n.metric AND b.period = n.period
		WHERE n.plan = p_new_plan AND n.algorithm = 'fixed' AND n.limit_amount IS NOT NULL
			AND s.resets_at > p_at
			AND NOT EXISTS (
				SELECT
				FROM quota.limit_overrides x
				WHERE x.user_id = p_user_id AND x.metric = n.metric
					AND (x.period = n.period OR x.period IS NULL AND a.period = n.period)
					AND (x.expires_at IS NULL OR x.expires_at > p_at))
		ORDER BY n.metric, n.period
	LOOP
		IF p_strategy = 'additive' THEN
			v_limit := v_row.new_limit + greatest(v_row.limit_before, v_row.used);
			IF v_row.limit_before IS NULL THEN
				v_limit := NULL;
			END IF;
		ELSIF v_row.old_limit IS NULL OR v_row.limit_before IS NULL THEN
			v_limit := v_row.used + v_row.new_limit * v_row.remaining_share;
		ELSE
			v_limit := greatest(v_row.limit_before + (v_row.new_limit - v_row.old_limit) * v_row.remaining_share, 0);
		END IF;
		v_limit := trim_scale(round(v_limit, 6));
		CONTINUE WHEN v_limit = v_row.new_limit;

		-- For the allowance without naming its period, as set_limit_override does
		-- by default: so an override that somebody sets later takes its place.
		INSERT INTO quota.limit_overrides (user_id, metric, period, limit_amount, expires_at, reason, created_at)
			VALUES (p_user_id, v_row.metric, CASE WHEN NOT v_row.is_allowance THEN v_row.period END, v_limit,
				v_row.resets_at, CASE p_strategy WHEN 'additive' THEN 'additive' ELSE 'prorated' END, p_at)
			ON CONFLICT (user_id, metric, (coalesce(period, ''))) DO UPDATE
				SET limit_amount = excluded.limit_amount,
					expires_at = excluded.expires_at,
					reason = excluded.reason,
					created_at = excluded.created_at
			RETURNING id INTO v_id;
		PERFORM quota.checked_write(v_id, 'quota.limit_overrides');
		v_done := v_done || jsonb_build_object('metric', v_row.metric, 'period', v_row.period,
			'limit_amount', trim_scale(v_limit), 'expires_at', v_row.resets_at);
	END LOOP;
	RETURN v_done;
END
$$;
COMMENT ON FUNCTION quota.adapt_limits(uuid, text, text, text, jsonb, timestamptz) IS
'Part of assign_plan: sets the overrides of the strategies prorate and additive, and returns them';

CREATE FUNCTION quota.end_of_longest_period(p_user_id uuid, p_plan text) RETURNS timestamptz
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	-- of equal ones that begin at different times, the last to end: nothing is cut off
	SELECT s.resets_at
	FROM quota.plan_limits l
	JOIN quota.metrics m ON m.metric = l.metric AND m.kind = 'counter'
	JOIN quota.get_user_quota_status(p_user_id) AS s
		ON s.limit_user_id = p_user_id AND s.metric = l.metric AND s.period = l.period
	WHERE l.plan = p_plan AND l.algorithm = 'fixed' AND s.resets_at IS NOT NULL
	ORDER BY quota.period_length(l.period) DESC, s.resets_at DESC
	LIMIT 1
$$;
COMMENT ON FUNCTION quota.end_of_longest_period(uuid, text) IS
'Part of assign_plan: when the longest of the subject''s current periods ends; NULL = none does';

-- Assigning a plan -------------------------------------------------------------------

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
	v_old		quota.subscriptions;
	v_new		quota.subscriptions;
	v_now		timestamptz;
	v_plan		text;			-- the plan that counted until now
	v_due		boolean;		-- pending_plan is that plan
	v_later		timestamptz;	-- when the new one begins to count; NULL = now
	v_before	jsonb;
	v_reset		jsonb;
	v_limits	jsonb;
	v_detail	jsonb;
	v_id		uuid;
	v_metric	text;
BEGIN
	PERFORM quota.checked_user(p_user_id);

	IF p_plan IS NULL OR p_plan = '' THEN
		RAISE EXCEPTION 'plan must not be null or empty'
			USING ERRCODE = '22023',
				HINT = 'Pass the name of a row in quota.plans.';
	END IF;
	IF p_strategy IS NULL OR p_strategy NOT IN ('keep', 'reset', 'prorate', 'additive', 'at_period_end') THEN
		RAISE EXCEPTION 'unknown strategy %', coalesce('"' || p_strategy || '"', 'NULL')
			USING ERRCODE = '22023',
				HINT = 'The strategies are "keep", "reset", "prorate", "additive" and "at_period_end".';
	END IF;
	IF p_strategy = 'at_period_end' AND (p_anchor IS NOT NULL OR p_time_zone IS NOT NULL) THEN
		RAISE EXCEPTION 'anchor and time zone cannot be changed at a period''s end'
			USING ERRCODE = '22023',
				DETAIL = 'They would move the periods of the plan that goes on until then.',
				HINT = 'Leave p_anchor and p_time_zone out, or use another strategy.';
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
		PERFORM quota.close_ended_periods(p_user_id);

		-- The strategies look at what is used, so nobody may use more meanwhile.
		IF p_strategy IN ('reset', 'prorate', 'additive') THEN
			PERFORM 1 FROM quota.usage_tracking WHERE user_id = p_user_id
				ORDER BY metric, period FOR NO KEY UPDATE;
		END IF;
		v_now := quota.clock();
		v_due := coalesce(v_old.pending_at <= v_now, false);
		v_plan := CASE
			WHEN v_old.user_id IS NULL THEN nullif(current_setting('quota.default_plan', true), '')
			WHEN v_due THEN v_old.pending_plan
			ELSE v_old.plan
		END;

		-- no plan, nothing to wait for; the same plan, nothing to change but a pending change
		IF p_strategy = 'at_period_end' AND v_plan <> p_plan THEN
			v_later := quota.end_of_longest_period(p_user_id, v_plan);
			IF v_later IS NULL THEN
				RAISE EXCEPTION 'plan "%" has no period that ends', v_plan
					USING ERRCODE = '22023',
						DETAIL = 'It has no counter with a period other than lifetime.',
						HINT = 'Use another strategy, such as "keep".';
			END IF;
		ELSIF p_strategy IN ('prorate', 'additive') THEN
			SELECT coalesce(jsonb_agg(s), '[]') INTO v_before
				FROM (SELECT metric, period, limit_amount FROM quota.get_user_quota_status(p_user_id)
					WHERE limit_user_id = p_user_id) AS s;
		ELSIF p_strategy = 'reset' AND v_reset IS NULL THEN
			-- under the old plan, whose limits the history records
			SELECT jsonb_object_agg(r.metric, trim_scale(r.old_value)) FILTER (WHERE r.old_value > 0) INTO v_reset
				FROM quota.reset_counters(p_user_id, NULL) AS r;
		END IF;

		IF v_old.user_id IS NOT NULL THEN
			UPDATE quota.subscriptions
				SET plan = CASE WHEN v_later IS NULL THEN p_plan ELSE v_plan END,
					pending_plan = CASE WHEN v_later IS NOT NULL THEN p_plan END,
					pending_at = v_later,
					-- One that is announced counts already, so that nobody has to count it
					-- later; one that is called off has not been.
					switches = greatest(switches - coalesce(pending_at > v_now, false)::integer, 0)
						+ coalesce(v_plan <> p_plan, false)::integer,
					anchor = coalesce(p_anchor, anchor),
					time_zone = coalesce(p_time_zone, time_zone),
					updated_at = v_now
				WHERE user_id = p_user_id
				RETURNING * INTO v_new;
		ELSE
			INSERT INTO quota.subscriptions (user_id, plan, anchor, time_zone, created_at, updated_at,
					pending_plan, pending_at, switches)
				VALUES (p_user_id, CASE WHEN v_later IS NULL THEN p_plan ELSE v_plan END,
					coalesce(p_anchor, v_now), coalesce(p_time_zone, 'UTC'), v_now, v_now,
					CASE WHEN v_later IS NOT NULL THEN p_plan END, v_later,
					coalesce(v_plan <> p_plan, false)::integer)
				ON CONFLICT (user_id) DO NOTHING
				RETURNING * INTO v_new;
		END IF;
		EXIT WHEN FOUND;
	END LOOP;
	PERFORM quota.checked_write(v_new.user_id, 'quota.subscriptions');

	-- Windows that the old plan did not have may have an older count.
	IF p_strategy = 'reset' THEN
		FOR v_metric IN
			SELECT DISTINCT t.metric
			FROM quota.usage_tracking t
			JOIN quota.metrics m ON m.metric = t.metric AND m.kind = 'counter'
			JOIN quota.plan_limits l ON l.plan = p_plan AND l.metric = t.metric AND l.period = t.period
			WHERE t.user_id = p_user_id AND t.period_start <= v_now AND (t.period_end IS NULL OR t.period_end > v_now)
				AND (t.used > 0 OR t.bonus_used > 0 OR t.overage > 0)
			ORDER BY t.metric
		LOOP
			v_reset := jsonb_build_object(v_metric, trim_scale(0 - (quota.reset_account(p_user_id, v_metric)).granted))
				|| coalesce(v_reset, '{}');
		END LOOP;
	END IF;

	-- What an earlier change has set for the rest of a period goes with its plan.
	IF v_later IS NULL AND (v_plan IS DISTINCT FROM p_plan OR p_strategy IN ('reset', 'prorate', 'additive')) THEN
		DELETE FROM quota.limit_overrides o WHERE o.user_id = p_user_id AND quota.set_by_plan_change(o);
	END IF;
	IF v_before IS NOT NULL THEN
		v_limits := quota.adapt_limits(p_user_id, v_plan, p_plan, p_strategy, v_before, v_now);
	END IF;

	v_detail := jsonb_strip_nulls(jsonb_build_object(
		'effective_at', v_later,
		'reset', v_reset,
		'limits', v_limits,
		'cancelled', CASE WHEN v_old.pending_at > v_now THEN
			jsonb_build_object('plan', v_old.pending_plan, 'effective_at', v_old.pending_at)
		END));
	IF (v_plan IS DISTINCT FROM p_plan OR p_strategy IN ('reset', 'prorate', 'additive') OR v_old.pending_at > v_now)
		AND (v_later IS NULL OR v_old.pending_plan IS DISTINCT FROM p_plan OR v_old.pending_at IS DISTINCT FROM v_later) THEN
		INSERT INTO quota.plan_change_log (id, user_id, old_plan, new_plan, strategy, effective_at, actor, reason, detail, created_at)
			VALUES (quota.new_id(v_now), p_user_id, v_plan, p_plan, p_strategy, coalesce(v_later, v_now),
				session_user, p_reason, v_detail, v_now)
			RETURNING id INTO v_id;
		PERFORM quota.checked_write(v_id, 'quota.plan_change_log');
	END IF;

	PERFORM quota.record_admin_act(v_now, 'assign_plan', p_user_id, p_reason,
		jsonb_build_object(
			'strategy', p_strategy,
			'old', CASE WHEN v_old.user_id IS NOT NULL THEN
				jsonb_build_object('plan', v_plan, 'anchor', v_old.anchor, 'time_zone', v_old.time_zone)
			END,
			'new', jsonb_build_object('plan', p_plan, 'anchor', v_new.anchor, 'time_zone', v_new.time_zone))
		|| v_detail);
END
$$;
COMMENT ON FUNCTION quota.assign_plan(uuid, text, text, timestamptz, text, text) IS
'Puts a subject on a plan. keep: from now on, and what it has used of a window counts against the new plan''s window of the same period; reset: its counters start again; prorate, additive: for the rest of each period the limit is a mean of both plans by time, or the sum of what both have left; at_period_end: from the end of its longest current period on. Anchor, time zone and parent stay unless given';
