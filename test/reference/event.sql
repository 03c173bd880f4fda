-- ---------------------------------------------------------------------------
-- Requests that name an event: settle, cancel, refund; and the repayment of overage
-- ---------------------------------------------------------------------------

-- The charges of events: subject and accounts as they are at p_now
CREATE FUNCTION quota_reference.event_charges(p_events quota.usage_events[], p_now timestamptz)
	RETURNS quota_reference.charge[]
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	c			quota_reference.charge;
	v_charges	quota_reference.charge[] := '{}';
BEGIN
	c.item := 1;
	c.lines := '{}';
	FOREACH c.event IN ARRAY p_events LOOP
		c.subject := quota_reference.resolve((c.event).user_id, (c.event).metric, p_now);
		v_charges := v_charges || c;
	END LOOP;
	RETURN v_charges;
END
$$;

-- Lock what the charges of events may write; complete if nothing was new
CREATE FUNCTION quota_reference.lock_events(
	p_charges quota_reference.charge[], INOUT p_locked text[], OUT complete boolean)
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_created	text[];
BEGIN
	SELECT * INTO p_locked, v_created, complete
	  FROM quota_reference.lock_accounts(p_charges, false, p_locked, '{}');
	IF NOT complete THEN
		PERFORM quota_reference.lock_bonuses(p_charges);
	END IF;
END
$$;

-- The subject as it was in the period that an event counts in: the windows that it
-- was charged in, as far as they are limited now.  Such a period does not end.
CREATE FUNCTION quota_reference.as_in_period(
	p_subject quota_reference.subject, p_event quota.usage_events, p_now timestamptz)
	RETURNS quota_reference.subject
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_at		timestamptz := coalesce(p_event.effective_at, p_event.created_at);
	a			quota_reference.account;
	v_accounts	quota_reference.account[] := '{}';
	v_lapsed	numeric;
	v_cost		numeric;
	v_start		timestamptz;
	v_end		timestamptz;
BEGIN
	FOREACH a IN ARRAY p_subject.accounts LOOP
		CONTINUE WHEN (a.period = p_event.period OR a.period = ANY (p_event.rate_periods)) IS NOT TRUE;
		SELECT x.period_start, x.period_end, x.used, x.held, x.cost + x.held_cost
		  INTO v_start, v_end, a.used, a.held, a.cost
		  FROM (SELECT t.period_start, 'infinity' AS period_end, t.used, t.held, t.cost, t.held_cost
				  FROM quota.usage_tracking AS t
				 WHERE t.user_id = p_subject.user_id AND t.metric = p_subject.metric AND t.period = a.period
				UNION ALL
				SELECT h.period_start, h.period_end, h.used, h.held, h.cost, h.held_cost
				  FROM quota.usage_history AS h
				 WHERE h.user_id = p_subject.user_id AND h.metric = p_subject.metric AND h.period = a.period) AS x
		 WHERE x.period_start <= v_at AND x.period_end > v_at;
		CONTINUE WHEN NOT FOUND;
		SELECT coalesce(sum(CASE WHEN h.period = a.period THEN h.held_allowance ELSE h.held END), 0),
			   coalesce(sum(h.held_cost) FILTER (WHERE h.period = a.period), 0)
		  INTO v_lapsed, v_cost
		  FROM quota_reference.open_holds(p_subject.user_id, p_subject.metric) AS h
		 WHERE h.expires_at <= p_now
		   AND h.at >= v_start AND h.at < v_end
		   AND (h.period = a.period OR a.period = ANY (h.rate_periods));
		a.held := a.held - v_lapsed;
		a.cost := a.cost - v_cost;
		a.period_end := NULL;
		a.rank := CASE WHEN a.period = p_event.period THEN 1 ELSE a.rank + 1 END;
		v_accounts := v_accounts || a;
	END LOOP;
	-- where the allowance is none any more, there is nothing to grant from
	IF NOT EXISTS (SELECT FROM unnest(v_accounts) AS x WHERE x.rank = 1) THEN
		v_accounts := '{}';
	END IF;
	p_subject.accounts := v_accounts;
	RETURN p_subject;
END
$$;

-- What ended a reservation; NULL if nothing has
CREATE FUNCTION quota_reference.resolution(p_id uuid) RETURNS quota.usage_events
	LANGUAGE sql STABLE
AS $$
	SELECT e.* FROM quota.usage_events AS e WHERE e.refers_to = p_id AND e.kind IN ('settle', 'cancel', 'expire')
$$;

-- The answer to a request of events that was written: recorded, kept for repeats
CREATE FUNCTION quota_reference.answer_event(
	p_charges quota_reference.charge[], p_action text, p_attempted numeric, p_id uuid, p_reservation uuid,
	p_shortfall numeric, p_now timestamptz)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_out	quota.outcome := quota_reference.answer(p_charges, p_now);
BEGIN
	v_out.event_id := p_id;
	v_out.reservation_id := p_reservation;
	v_out.shortfall := p_shortfall;
	IF p_reservation IS NOT NULL THEN
		UPDATE quota.usage_events AS e SET outcome = v_out WHERE e.id = p_id;
	END IF;
	PERFORM quota_reference.audit(((p_charges[1]).event).user_id, p_action, p_attempted, v_out, p_now);
	RETURN v_out;
END
$$;

-- Settle or cancel a reservation.  p_actual NULL = all that was held.
CREATE FUNCTION quota_reference.resolve_reservation(p_id uuid, p_kind text, p_actual numeric) RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_events	quota.usage_events[];	-- the subject's, and those of its parents
	v_hold		quota.usage_events;
	v_end		quota.usage_events;
	e			quota.usage_events;
	c			quota_reference.charge;
	v_charges	quota_reference.charge[];
	v_outs		quota.outcome[];
	v_out		quota.outcome;
	v_now		timestamptz;
	v_actual	numeric;
	v_extra		numeric;
	v_shortfall	numeric;
	v_keep		numeric;
	v_allowance	numeric;
	v_bonus		numeric;
	v_overage	numeric;
	v_cost		numeric;
	v_locked	text[] := '{}';
	v_complete	boolean;
	v_main		uuid;
BEGIN
	SELECT * INTO v_hold FROM quota.usage_events AS x WHERE x.id = p_id AND x.kind = 'reserve' AND x.refers_to IS NULL;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown reservation' USING ERRCODE = 'QU004';
	END IF;
	v_actual := CASE WHEN p_kind = 'cancel' THEN 0 ELSE coalesce(p_actual, v_hold.held) END;
	v_events := v_hold || ARRAY(SELECT x FROM quota.usage_events AS x
								 WHERE x.refers_to = p_id AND x.kind = 'reserve' ORDER BY x.user_id);

	LOOP
		v_now := greatest(v_now, quota.clock());
		v_charges := quota_reference.event_charges(v_events, v_now);
		v_now := quota_reference.time_of_charges(v_charges, v_now);
		v_charges := quota_reference.charges_at(v_charges, v_now);
		CONTINUE WHEN v_charges IS NULL;

		v_end := quota_reference.resolution(p_id);
		IF v_end.kind IN ('settle', 'cancel') THEN
			IF v_end.kind <> p_kind OR coalesce(v_end.requested, v_end.amount) <> v_actual THEN
				RAISE EXCEPTION 'reservation was resolved already' USING ERRCODE = 'QU004';
			END IF;
			v_out := v_end.outcome;
			v_out.already_processed := true;
		-- a parent's account may have been ahead of the clock, and let go already
		ELSIF v_now >= v_hold.expires_at
			  OR EXISTS (SELECT FROM unnest(v_events) AS x, quota_reference.resolution(x.id) AS r WHERE r.id IS NOT NULL) THEN
			SELECT array_agg(quota_reference.state(x.subject, v_now)) INTO v_outs FROM unnest(v_charges) AS x;
			v_out := quota_reference.refuse(v_outs, 'reservation_expired');
		END IF;
		IF v_out.reason IS NOT NULL THEN
			PERFORM quota_reference.audit(v_hold.user_id, p_kind,
				CASE WHEN p_kind = 'cancel' THEN 0 ELSE coalesce(p_actual, v_hold.held) END, v_out, v_now);
			RETURN v_out;
		END IF;

		-- whoever waited reads and decides again
		SELECT * INTO v_locked, v_complete FROM quota_reference.lock_events(v_charges, v_locked);
		EXIT WHEN v_complete;
	END LOOP;

	-- more than was held is a new request, in the period of the reserve, all or
	-- nothing
	v_extra := greatest(v_actual - v_hold.held, 0);
	v_shortfall := CASE WHEN p_kind = 'settle' THEN 0 END;
	FOR i IN 1 .. cardinality(v_charges) LOOP
		c := v_charges[i];
		c.answer := quota_reference.decide(quota_reference.as_in_period(c.subject, c.event, v_now), v_extra, v_now);
		IF v_extra > 0 AND NOT (c.answer).allowed THEN
			v_shortfall := v_extra;
		END IF;
		c.lines := quota_reference.take_lines((c.subject).bonuses, (c.answer).bonus_used);
		v_charges[i] := c;
	END LOOP;

	v_main := quota.new_id(v_now);
	FOR i IN 1 .. cardinality(v_charges) LOOP
		c := v_charges[i];
		v_hold := c.event;
		e := quota_reference.ended_hold(v_hold, p_kind, v_now);
		-- of what was held the first units are used: allowance, bonuses, overage
		v_keep := least(v_actual, v_hold.held);
		v_allowance := least(v_keep, v_hold.held - coalesce(v_hold.held_bonus, 0) - coalesce(v_hold.held_overage, 0));
		v_bonus := least(v_keep - v_allowance, coalesce(v_hold.held_bonus, 0));
		v_overage := v_keep - v_allowance - v_bonus;
		v_cost := quota_reference.kept_cost(coalesce(v_hold.held_cost, 0), coalesce(v_hold.held_overage, 0), v_overage);
		IF v_extra = 0 OR v_shortfall > 0 THEN
			c.answer := quota_reference.state(c.subject, v_now);
			c.lines := '{}';
		END IF;
		c.lines := quota_reference.add_lines(
			ARRAY(SELECT ROW(l.bonus_id, greatest(least(l.held, v_bonus - l.before), 0), -l.held)::quota_reference.line
					FROM (SELECT h.*, sum(h.held) OVER (ORDER BY h.place) - h.held AS before
							FROM unnest(quota_reference.lines_of(v_hold.id)) WITH ORDINALITY
								 AS h (bonus_id, amount, held, place)) AS l
				   ORDER BY l.place),
			c.lines);
		c.answer.granted := (c.answer).granted + v_keep;
		c.answer.bonus_used := (c.answer).bonus_used + v_bonus;
		c.answer.overage := (c.answer).overage + v_overage;
		c.answer.cost := (c.answer).cost + v_cost;
		c.answer.reason := CASE WHEN (c.answer).overage > 0 THEN 'overage'
								WHEN (c.answer).bonus_used > 0 THEN 'bonus' ELSE 'ok' END;
		v_charges[i] := c;

		e.id := CASE WHEN i = 1 THEN v_main ELSE e.id END;
		e.amount := (c.answer).granted;
		e.bonus_used := (c.answer).bonus_used;
		e.overage := (c.answer).overage;
		e.cost := (c.answer).cost;
		e.requested := nullif(v_actual, e.amount);
		PERFORM quota_reference.write_due(c.subject, v_hold, v_now);
		PERFORM quota_reference.enter(e, c.lines);
	END LOOP;
	RETURN quota_reference.answer_event(v_charges, p_kind,
		CASE WHEN p_kind = 'cancel' THEN 0 ELSE coalesce(p_actual, (v_events[1]).held) END,
		v_main, p_id, v_shortfall, v_now);
END
$$;

-- What is left of an event once its refunds are taken off, and what bonuses have
-- repaid of its overage counts as theirs: units, parts and lines
CREATE FUNCTION quota_reference.rest_of(
	p_event quota.usage_events,
	OUT units numeric, OUT bonus numeric, OUT overage numeric, OUT cost numeric, OUT lines quota_reference.line[])
	LANGUAGE sql STABLE
AS $$
	WITH entries AS (
		SELECT e.* FROM quota.usage_events AS e
		 WHERE e.id = p_event.id OR (e.refers_to = p_event.id AND e.kind IN ('refund', 'repay'))
	)
	SELECT sum(e.amount), sum(e.bonus_used), sum(e.overage), sum(e.cost),
		   ARRAY(SELECT ROW(l.bonus_id, l.amount, 0)::quota_reference.line
				   FROM (SELECT a.bonus_id, sum(a.amount) AS amount,
								min(a.place) AS place
						   FROM (SELECT y.bonus_id, y.amount,
										row_number() OVER (ORDER BY x.id <> p_event.id, x.created_at, y.ordinal) AS place
								   FROM entries AS x JOIN quota.bonus_allocations AS y ON y.event_id = x.id) AS a
						  GROUP BY a.bonus_id) AS l
				  ORDER BY l.place)
	  FROM entries AS e
$$;

-- What a refund of an event moves: overage first, then bonuses from the last, then
-- allowance
CREATE FUNCTION quota_reference.decide_refund(
	INOUT c quota_reference.charge, p_amount numeric, p_now timestamptz)
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	e			quota.usage_events := c.event;
	v_rest		record;
	v_units		numeric;
	v_overage	numeric;
	v_bonus		numeric;
BEGIN
	c.answer := quota_reference.state(c.subject, p_now);
	-- units of a gauge are not tied to events: its present parts count
	IF (c.subject).kind = 'gauge' THEN
		c := quota_reference.give_back(c, e.period, p_amount);
		IF -(c.answer).granted < p_amount THEN
			RAISE EXCEPTION 'more than the gauge has' USING ERRCODE = 'QU005';
		END IF;
		RETURN;
	END IF;

	v_rest := quota_reference.rest_of(e);
	v_units := least(p_amount, v_rest.units);
	v_overage := least(v_units, v_rest.overage);
	v_bonus := least(v_units - v_overage, v_rest.bonus);
	c.answer.granted := -v_units;
	c.answer.overage := -v_overage;
	c.answer.bonus_used := -v_bonus;
	c.answer.cost := CASE WHEN v_overage = 0 THEN 0
		ELSE quota_reference.kept_cost(v_rest.cost, v_rest.overage, v_rest.overage - v_overage) - v_rest.cost END;
	c.lines := quota_reference.add_lines(
		ARRAY(SELECT ROW(l.bonus_id, -greatest(least(l.amount, v_bonus - l.after), 0), 0)::quota_reference.line
				FROM (SELECT x.*, sum(x.amount) OVER (ORDER BY x.place DESC) - x.amount AS after
						FROM unnest(v_rest.lines) WITH ORDINALITY AS x (bonus_id, amount, held, place)) AS l
			   ORDER BY l.place), '{}');

	-- an adjustment may have given back some of it already
	PERFORM FROM (
		SELECT t.used, t.bonus_used, t.overage, t.period_start, 'infinity' AS period_end
		  FROM quota.usage_tracking AS t
		 WHERE t.user_id = e.user_id AND t.metric = e.metric AND t.period = e.period
		UNION ALL
		SELECT h.used, h.bonus_used, h.overage, h.period_start, h.period_end
		  FROM quota.usage_history AS h
		 WHERE h.user_id = e.user_id AND h.metric = e.metric AND h.period = e.period) AS x
	 WHERE x.period_start <= coalesce(e.effective_at, e.created_at) AND x.period_end > coalesce(e.effective_at, e.created_at)
	   AND (x.used < v_units - v_overage - v_bonus OR x.bonus_used < v_bonus OR x.overage < v_overage);
	IF FOUND THEN
		RAISE EXCEPTION 'less is used in the period than the refund would give back' USING ERRCODE = 'QU005';
	END IF;
END
$$;

CREATE FUNCTION quota_reference.refund(p_event_id uuid, p_amount numeric, p_metadata jsonb) RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_events	quota.usage_events[];	-- the subject's, and those of its parents
	v_event		quota.usage_events;
	v_reserve	quota.usage_events;
	e			quota.usage_events;
	c			quota_reference.charge;
	v_charges	quota_reference.charge[];
	v_now		timestamptz;
	v_left		numeric;
	v_amount	numeric;
	v_locked	text[] := '{}';
	v_complete	boolean;
	v_main		uuid;
BEGIN
	SELECT * INTO v_event FROM quota.usage_events AS x WHERE x.id = p_event_id;
	SELECT * INTO v_reserve FROM quota.usage_events AS x WHERE x.id = v_event.refers_to;
	IF v_event.kind = 'consume' AND v_event.refers_to IS NULL THEN
		v_events := v_event || ARRAY(SELECT x FROM quota.usage_events AS x
									  WHERE x.refers_to = p_event_id AND x.kind = 'consume' ORDER BY x.user_id);
	ELSIF v_event.kind = 'settle' AND v_reserve.refers_to IS NULL THEN
		v_events := v_event || ARRAY(SELECT x FROM quota.usage_events AS r
									   JOIN quota.usage_events AS x ON x.refers_to = r.id AND x.kind = 'settle'
									  WHERE r.refers_to = v_reserve.id AND r.kind = 'reserve' ORDER BY x.user_id);
	ELSE
		RAISE EXCEPTION 'event cannot be refunded' USING ERRCODE = 'QU005';
	END IF;

	LOOP
		v_now := greatest(v_now, quota.clock());
		v_charges := quota_reference.event_charges(v_events, v_now);
		v_now := quota_reference.time_of_charges(v_charges, v_now);
		v_charges := quota_reference.charges_at(v_charges, v_now);
		CONTINUE WHEN v_charges IS NULL;

		SELECT r.units INTO v_left FROM quota_reference.rest_of(v_event) AS r;
		v_amount := coalesce(p_amount, v_left);
		IF v_amount <= 0 OR v_amount > v_left THEN
			RAISE EXCEPTION 'more than is left of the event' USING ERRCODE = 'QU005';
		END IF;
		-- whoever waited reads and decides again
		SELECT * INTO v_locked, v_complete FROM quota_reference.lock_events(v_charges, v_locked);
		EXIT WHEN v_complete;
	END LOOP;

	v_main := quota.new_id(v_now);
	FOR i IN 1 .. cardinality(v_charges) LOOP
		c := quota_reference.decide_refund(v_charges[i], v_amount, v_now);
		v_charges[i] := c;
		e := quota_reference.ended_hold(c.event, 'refund', v_now);
		e.id := CASE WHEN i = 1 THEN v_main ELSE e.id END;
		e.held := NULL;
		e.held_bonus := NULL;
		e.held_overage := NULL;
		e.held_cost := NULL;
		e.amount := (c.answer).granted;
		e.bonus_used := (c.answer).bonus_used;
		e.overage := (c.answer).overage;
		e.cost := (c.answer).cost;
		e.requested := nullif(-v_amount, e.amount);
		e.metadata := p_metadata;
		IF (c.subject).kind = 'gauge' THEN
			SELECT array_agg(t.period ORDER BY t.period) INTO e.rate_periods
			  FROM quota.usage_tracking AS t
			 WHERE t.user_id = e.user_id AND t.metric = e.metric AND t.period = ANY (e.rate_periods)
			   AND t.used + e.amount >= 0;
		END IF;
		PERFORM quota_reference.write_due(c.subject, c.event, v_now);
		PERFORM quota_reference.enter(e, c.lines);
	END LOOP;
	RETURN quota_reference.answer_event(v_charges, 'refund', v_amount, v_main, NULL, NULL, v_now);
END
$$;

-- Overage that is to be repaid
CREATE TYPE quota_reference.overdraft AS (event quota.usage_events, overage numeric, cost numeric);

-- Have bonuses pay for the overage of the current period, of the oldest event first:
-- the units that they paid for.  Each entry refers to the event whose overage it
-- is; that of a gauge is nobody's.
CREATE FUNCTION quota_reference.repay_overage(p_user_id uuid, p_metric text) RETURNS numeric
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	c			quota_reference.charge;
	a			quota_reference.account;
	e			quota.usage_events;
	t			quota.usage_tracking;
	v_state		record;
	v_rest		quota_reference.overdraft;
	v_units		numeric;
	v_repaid	numeric := 0;
	v_locked	text[] := '{}';
	v_complete	boolean;
BEGIN
	LOOP
		v_state := quota_reference.as_of(p_user_id, quota_reference.metric_name(p_metric), quota.clock());
		c.subject := v_state.subject;
		c.event := NULL;
		SELECT * INTO a FROM unnest((c.subject).accounts) AS x WHERE x.rank = 1;
		SELECT * INTO t FROM quota.usage_tracking AS x
		 WHERE x.user_id = p_user_id AND x.metric = (c.subject).metric AND x.period = a.period AND NOT a.is_moved;
		EXIT WHEN NOT coalesce(a.repay AND t.overage > 0, false);

		IF (c.subject).kind = 'gauge' THEN
			v_rest := ROW(NULL, t.overage, t.cost);
		ELSE
			SELECT x, r.overage, r.cost INTO v_rest
			  FROM quota.usage_events AS x, quota_reference.rest_of(x) AS r
			 WHERE x.user_id = p_user_id AND x.metric = (c.subject).metric AND x.period = a.period
			   AND x.overage > 0 AND r.overage > 0 AND coalesce(x.effective_at, x.created_at) >= t.period_start
			 ORDER BY x.created_at LIMIT 1;
			c.event := v_rest.event;
		END IF;
		v_units := least(v_rest.overage, t.overage, (SELECT coalesce(sum(b.rest), 0) FROM unnest((c.subject).bonuses) AS b));
		EXIT WHEN NOT coalesce(v_units > 0, false);
		SELECT * INTO v_locked, v_complete FROM quota_reference.lock_events(ARRAY[c], v_locked);
		CONTINUE WHEN NOT v_complete;

		e := NULL;
		e.id := quota.new_id(v_state.moment);
		e.user_id := p_user_id;
		e.metric := (c.subject).metric;
		e.kind := 'repay';
		e.amount := 0;
		e.bonus_used := v_units;
		e.overage := -v_units;
		e.cost := quota_reference.kept_cost(v_rest.cost, v_rest.overage, v_rest.overage - v_units) - v_rest.cost;
		e.period := a.period;
		e.created_at := v_state.moment;
		e.effective_at := nullif(coalesce((c.event).effective_at, (c.event).created_at), v_state.moment);
		e.refers_to := (c.event).id;
		PERFORM quota_reference.write_due(c.subject, e, v_state.moment);
		PERFORM quota_reference.enter(e, quota_reference.take_lines((c.subject).bonuses, v_units));
		v_repaid := v_repaid + v_units;
	END LOOP;
	RETURN v_repaid;
END
$$;
