-- ---------------------------------------------------------------------------
-- Writing: locks, accounts, events and the lines of bonuses
--
-- An event says all that it moves.  enter() writes it and moves just that, in the
-- windows and the period that it names; nothing else changes a counter.
-- ---------------------------------------------------------------------------

-- Units of a bonus
CREATE TYPE quota_reference.line AS (
	bonus_id	uuid,
	amount		numeric,
	held		numeric
);

-- What one request moves of one subject and metric
CREATE TYPE quota_reference.charge AS (
	item		integer,				-- of a request of several metrics
	subject		quota_reference.subject,
	event		quota.usage_events,		-- what is undone or completed
	answer		quota.outcome,			-- the decision; in it, what moves
	lines		quota_reference.line[]
);

-- Lines ----------------------------------------------------------------------

-- Units out of bonuses, in the order of use
CREATE FUNCTION quota_reference.take_lines(p_bonuses quota_reference.bonus[], p_units numeric)
	RETURNS quota_reference.line[]
	LANGUAGE sql STABLE
AS $$
	SELECT coalesce(array_agg(ROW(r.id, least(r.rest, p_units - r.before), 0)::quota_reference.line ORDER BY r.place)
					FILTER (WHERE least(r.rest, p_units - r.before) > 0), '{}')
	  FROM (SELECT b.*, sum(b.rest) OVER (ORDER BY b.place) - b.rest AS before
			  FROM unnest(p_bonuses) AS b) AS r
$$;

-- Units back to those bonuses of which most recently something was taken, in the
-- order of use: for gauges, whose units are not tied to events
CREATE FUNCTION quota_reference.return_lines(p_user_id uuid, p_metric text, p_units numeric)
	RETURNS quota_reference.line[]
	LANGUAGE sql STABLE
AS $$
	SELECT coalesce(array_agg(ROW(r.id, -least(r.used_amount, p_units - r.before), 0)::quota_reference.line ORDER BY r.place)
					FILTER (WHERE least(r.used_amount, p_units - r.before) > 0), '{}')
	  FROM (SELECT b.id, b.used_amount, b.place, sum(b.used_amount) OVER (ORDER BY b.place DESC) - b.used_amount AS before
			  FROM (SELECT u.id, u.used_amount,
						   row_number() OVER (ORDER BY u.priority, u.expires_at NULLS LAST, u.source = 'paid',
													   u.granted_at, u.id) AS place
					  FROM quota.user_bonuses AS u
					 WHERE u.user_id = p_user_id AND u.metric = p_metric) AS b) AS r
$$;

-- One list out of two, one line for each bonus
CREATE FUNCTION quota_reference.add_lines(p_lines quota_reference.line[], p_more quota_reference.line[])
	RETURNS quota_reference.line[]
	LANGUAGE sql STABLE
AS $$
	SELECT coalesce(array_agg(ROW(s.bonus_id, s.amount, s.held)::quota_reference.line ORDER BY s.place), '{}')
	  FROM (SELECT l.bonus_id, sum(l.amount) AS amount, sum(l.held) AS held, min(l.place) AS place
			  FROM unnest(p_lines || p_more) WITH ORDINALITY AS l (bonus_id, amount, held, place)
			 GROUP BY l.bonus_id) AS s
	 WHERE s.amount <> 0 OR s.held <> 0
$$;

-- What an overage costs of which p_kept units are kept
CREATE FUNCTION quota_reference.kept_cost(p_cost numeric, p_overage numeric, p_kept numeric) RETURNS numeric
	LANGUAGE sql IMMUTABLE
AS $$
	SELECT CASE WHEN p_kept = 0 THEN 0
				WHEN p_kept = p_overage THEN p_cost
				ELSE trim_scale(div(p_cost * 1000000000000000000 * p_kept, p_overage) / 1000000000000000000) END
$$;

-- Events ---------------------------------------------------------------------

-- Move units in the period of an account that contains p_at
CREATE FUNCTION quota_reference.move(
	p_user_id uuid, p_metric text, p_period text, p_at timestamptz,
	p_used numeric, p_bonus_used numeric, p_overage numeric, p_cost numeric, p_held numeric, p_held_cost numeric)
	RETURNS boolean
	LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
	UPDATE quota.usage_tracking AS t
	   SET used = trim_scale(t.used + p_used), bonus_used = trim_scale(t.bonus_used + p_bonus_used), overage = trim_scale(t.overage + p_overage),
		   cost = trim_scale(t.cost + p_cost), held = trim_scale(t.held + p_held), held_cost = trim_scale(t.held_cost + p_held_cost)
	 WHERE t.user_id = p_user_id AND t.metric = p_metric AND t.period = p_period AND t.period_start <= p_at;
	IF NOT FOUND THEN
		UPDATE quota.usage_history AS h
		   SET used = trim_scale(h.used + p_used), bonus_used = trim_scale(h.bonus_used + p_bonus_used), overage = trim_scale(h.overage + p_overage),
			   cost = trim_scale(h.cost + p_cost), held = trim_scale(h.held + p_held), held_cost = trim_scale(h.held_cost + p_held_cost)
		 WHERE h.user_id = p_user_id AND h.metric = p_metric AND h.period = p_period
		   AND h.period_start <= p_at AND h.period_end > p_at;
	END IF;
	RETURN FOUND;
END
$$;

-- Write an event and its lines, and move what it says.  A period that is not kept
-- any more raises QU005, except for a hold that has expired.
CREATE FUNCTION quota_reference.enter(e quota.usage_events, p_lines quota_reference.line[]) RETURNS void
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_at		timestamptz := coalesce(e.effective_at, e.created_at);
	v_held		numeric := coalesce(e.held, 0);
	v_window	text;
	v_found		boolean;
BEGIN
	-- without trailing zeros, as the library writes numbers
	e.amount := trim_scale(e.amount);
	e.bonus_used := trim_scale(e.bonus_used);
	e.overage := trim_scale(e.overage);
	e.cost := trim_scale(e.cost);
	e.requested := trim_scale(e.requested);
	e.held := trim_scale(e.held);
	e.held_bonus := trim_scale(e.held_bonus);
	e.held_overage := trim_scale(e.held_overage);
	e.held_cost := trim_scale(e.held_cost);

	v_found := quota_reference.move(e.user_id, e.metric, e.period, v_at,
		e.amount - e.bonus_used - e.overage, e.bonus_used, e.overage, e.cost,
		v_held - coalesce(e.held_bonus, 0) - coalesce(e.held_overage, 0), coalesce(e.held_cost, 0));
	FOREACH v_window IN ARRAY coalesce(e.rate_periods, '{}') LOOP
		v_found := quota_reference.move(e.user_id, e.metric, v_window, v_at, e.amount, 0, 0, 0, v_held, 0) AND v_found;
	END LOOP;
	IF NOT v_found AND e.kind <> 'expire' THEN
		RAISE EXCEPTION 'the period that the event belongs to is not kept any more' USING ERRCODE = 'QU005';
	END IF;

	UPDATE quota.user_bonuses AS b
	   SET used_amount = trim_scale(b.used_amount + l.amount), held_amount = trim_scale(b.held_amount + l.held)
	  FROM unnest(p_lines) AS l
	 WHERE b.id = l.bonus_id;
	INSERT INTO quota.usage_events SELECT (e).*;
	-- units that go back to a bonus which cannot be used any more, or is gone, are lost
	INSERT INTO quota.bonus_allocations (event_id, bonus_id, amount, held, ordinal, expired)
	SELECT e.id, l.bonus_id, trim_scale(l.amount), trim_scale(l.held), l.place,
		   l.amount + l.held < 0
		   AND (b.id IS NULL OR b.voided_at IS NOT NULL OR coalesce(b.expires_at <= e.created_at, false))
	  FROM unnest(p_lines) WITH ORDINALITY AS l (bonus_id, amount, held, place)
	  LEFT JOIN quota.user_bonuses AS b ON b.id = l.bonus_id;

	IF e.expires_at IS NOT NULL THEN
		UPDATE quota.usage_tracking AS t
		   SET holds_expire_at = least(t.holds_expire_at, e.expires_at)
		 WHERE t.user_id = e.user_id AND t.metric = e.metric
		   AND (t.period = e.period OR t.period = ANY (e.rate_periods));
	END IF;
END
$$;

-- The lines of an event, in their order, as what it has set aside or used
CREATE FUNCTION quota_reference.lines_of(p_event_id uuid) RETURNS quota_reference.line[]
	LANGUAGE sql STABLE
AS $$
	SELECT coalesce(array_agg(ROW(a.bonus_id, a.amount, a.held)::quota_reference.line ORDER BY a.ordinal), '{}')
	  FROM quota.bonus_allocations AS a
	 WHERE a.event_id = p_event_id
$$;

-- Let go of what a hold sets aside, as far as it is not used: the event
CREATE FUNCTION quota_reference.ended_hold(
	p_hold quota.usage_events, p_kind text, p_now timestamptz)
	RETURNS quota.usage_events
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	e	quota.usage_events;
BEGIN
	e.id := quota.new_id(p_now);
	e.user_id := p_hold.user_id;
	e.metric := p_hold.metric;
	e.kind := p_kind;
	e.amount := 0;
	e.bonus_used := 0;
	e.period := p_hold.period;
	e.rate_periods := p_hold.rate_periods;
	e.created_at := p_now;
	e.overage := 0;
	e.cost := 0;
	e.effective_at := nullif(coalesce(p_hold.effective_at, p_hold.created_at), p_now);
	e.refers_to := p_hold.id;
	e.held := -p_hold.held;
	e.held_bonus := -p_hold.held_bonus;
	e.held_overage := -p_hold.held_overage;
	e.held_cost := -p_hold.held_cost;
	RETURN e;
END
$$;

-- Write what is due in accounts that are locked: all that as_at() has moved on, or
-- only those that p_event counts in; then the ends of holds that have lapsed.
CREATE FUNCTION quota_reference.write_due(
	p_subject quota_reference.subject, p_event quota.usage_events, p_now timestamptz)
	RETURNS void
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	a			quota_reference.account;
	v_hold		quota.usage_events;
	v_windows	text[] := p_event.rate_periods || p_event.period;
BEGIN
	FOREACH a IN ARRAY p_subject.accounts LOOP
		v_windows := v_windows || a.period;
		CONTINUE WHEN NOT a.is_moved AND NOT a.is_new;
		-- what only an event concerns moves on if something moves in it
		CONTINUE WHEN p_event.id IS NOT NULL AND NOT EXISTS (
			SELECT
			  FROM quota.usage_tracking AS t
			  CROSS JOIN (SELECT coalesce(p_event.effective_at, p_event.created_at), p_event.period, p_event.rate_periods
						  UNION ALL
						  SELECT h.at, h.period, h.rate_periods
							FROM quota_reference.open_holds(p_subject.user_id, p_subject.metric) AS h
						   WHERE h.expires_at <= p_now) AS m (at, period, rate_periods)
			 WHERE t.user_id = p_subject.user_id AND t.metric = p_subject.metric AND t.period = a.period
			   AND (t.holds_expire_at <= p_now
					OR (m.at >= t.period_start AND (m.period = t.period OR t.period = ANY (m.rate_periods)))));
		IF a.is_moved THEN
			INSERT INTO quota.usage_history (id, user_id, metric, period, period_start, period_end,
											 used, bonus_used, overage, limit_amount, closed_at, cost, held, held_cost)
			SELECT quota.new_id(p_now), t.user_id, t.metric, t.period, t.period_start, least(t.period_end, p_now),
				   t.used, t.bonus_used, t.overage, a.limit_amount, p_now, t.cost, t.held, t.held_cost
			  FROM quota.usage_tracking AS t
			 WHERE t.user_id = p_subject.user_id AND t.metric = p_subject.metric AND t.period = a.period;
		END IF;
		UPDATE quota.usage_tracking AS t
		   SET period_start = a.period_start, period_end = a.period_end, anchor = a.anchor,
			   used = 0, bonus_used = 0, overage = 0, cost = 0, held = 0, held_cost = 0
		 WHERE t.user_id = p_subject.user_id AND t.metric = p_subject.metric AND t.period = a.period;
	END LOOP;

	FOR v_hold IN
		SELECT e.* FROM quota_reference.open_holds(p_subject.user_id, p_subject.metric) AS h
		  JOIN quota.usage_events AS e ON e.id = h.id
		 WHERE h.expires_at <= p_now
		 ORDER BY h.expires_at, h.id
	LOOP
		v_windows := v_windows || v_hold.rate_periods || v_hold.period;
		PERFORM quota_reference.enter(
			quota_reference.ended_hold(v_hold, 'expire', p_now),
			ARRAY(SELECT ROW(l.bonus_id, 0, -l.held)::quota_reference.line
					FROM unnest(quota_reference.lines_of(v_hold.id)) AS l));
	END LOOP;
	-- the accounts that were looked at need not look again before this
	UPDATE quota.usage_tracking AS t
	   SET holds_expire_at = (SELECT min(x.expires_at) FROM quota.usage_events AS x
							   WHERE x.user_id = t.user_id AND x.metric = t.metric AND x.expires_at > p_now)
	 WHERE t.user_id = p_subject.user_id AND t.metric = p_subject.metric AND t.holds_expire_at <= p_now
	   AND t.period = ANY (v_windows);
END
$$;

-- Locks ------------------------------------------------------------------------

-- Lock the accounts of charges in the order of their primary key.  p_locked and
-- p_created name those that are locked, and those that were made for that.  With
-- p_create false, what does not exist is not made.
CREATE FUNCTION quota_reference.lock_accounts(
	p_charges quota_reference.charge[], p_create boolean,
	INOUT p_locked text[], INOUT p_created text[], OUT complete boolean)
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	r	record;
BEGIN
	complete := true;
	FOR r IN
		SELECT DISTINCT ON (w.user_id, w.metric, w.period)
			   w.*, format('%s %s %s', w.user_id, w.metric, w.period) AS name
		  FROM (SELECT (c.subject).user_id, (c.subject).metric COLLATE "C" AS metric, a.period COLLATE "C" AS period,
					   a.is_new, a.period_start, a.period_end, a.anchor
				  FROM unnest(p_charges) AS c, unnest((c.subject).accounts) AS a
				UNION ALL
				SELECT (c.subject).user_id, (c.subject).metric, p.period, false, NULL, NULL, NULL
				  FROM unnest(p_charges) AS c, unnest((c.event).rate_periods || (c.event).period) AS p (period)
				 WHERE (c.event).id IS NOT NULL) AS w
		 ORDER BY w.user_id, w.metric, w.period, w.is_new DESC
	LOOP
		CONTINUE WHEN r.name = ANY (p_locked) AND (NOT r.is_new OR r.name = ANY (p_created));
		IF r.is_new AND p_create THEN
			-- of two first uses one waits here for the other
			INSERT INTO quota.usage_tracking (user_id, metric, period, period_start, period_end, anchor)
			VALUES (r.user_id, r.metric, r.period, r.period_start, r.period_end, r.anchor)
			ON CONFLICT DO NOTHING;
			IF FOUND THEN
				p_created := p_created || r.name;
			END IF;
		END IF;
		PERFORM FROM quota.usage_tracking AS t
		  WHERE t.user_id = r.user_id AND t.metric = r.metric AND t.period = r.period
			FOR NO KEY UPDATE;
		IF r.name <> ALL (p_locked) THEN
			p_locked := p_locked || r.name;
			complete := false;
		END IF;
	END LOOP;
END
$$;

-- Lock the bonuses that charges may touch.  Calls that share no account, after a
-- change of plan, share the bonuses.
CREATE FUNCTION quota_reference.lock_bonuses(p_charges quota_reference.charge[]) RETURNS void
	LANGUAGE sql VOLATILE
AS $$
	SELECT FROM quota.user_bonuses AS b
	 WHERE (b.user_id, b.metric) IN (SELECT (c.subject).user_id, (c.subject).metric FROM unnest(p_charges) AS c)
	   AND (b.available OR b.held_amount > 0 OR b.used_amount > 0)
	 ORDER BY b.user_id, b.metric, b.id
	   FOR NO KEY UPDATE
$$;

-- Answers ------------------------------------------------------------------------

CREATE FUNCTION quota_reference.audit(
	p_user_id uuid, p_action text, p_attempted numeric, p_out quota.outcome, p_now timestamptz)
	RETURNS void
	LANGUAGE sql VOLATILE
AS $$
	INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
									   plan_limit, current_usage, remaining, period, action, event_id, created_at)
	VALUES (quota.new_id(p_now), p_user_id, p_out.metric, p_attempted, p_out.allowed,
			CASE WHEN p_out.already_processed THEN 'replay' ELSE p_out.reason END,
			p_out.limit_amount, p_out.used, p_out.remaining, p_out.period, p_action, p_out.event_id, p_now)
$$;

-- The answer to what was written: the state that the tables show now, and what
-- moved
CREATE FUNCTION quota_reference.answer(p_charges quota_reference.charge[], p_now timestamptz) RETURNS quota.outcome
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	c		quota_reference.charge;
	v_state	record;
	v_out	quota.outcome;
	v_outs	quota.outcome[] := '{}';
BEGIN
	FOREACH c IN ARRAY p_charges LOOP
		v_state := quota_reference.as_of((c.subject).user_id, (c.subject).metric, p_now);
		v_out := quota_reference.state(v_state.subject, v_state.moment,
									   CASE WHEN (c.answer).reason = 'shadow' THEN (c.answer).period END);
		v_out.reason := (c.answer).reason;
		v_out.bonus_used := (c.answer).bonus_used;
		v_out.overage := (c.answer).overage;
		v_out.cost := (c.answer).cost;
		v_out.granted := (c.answer).granted;
		v_outs := v_outs || v_out;
	END LOOP;
	v_out := quota_reference.combine(v_outs);
	-- all levels move the same, but a parent may have had less to give back
	v_out.granted := trim_scale((p_charges[1].answer).granted);
	RETURN v_out;
END
$$;
