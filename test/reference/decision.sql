-- ---------------------------------------------------------------------------
-- The decision: what a subject as_at() one instant says to a request
-- ---------------------------------------------------------------------------

-- Elapsed time: a "day" would have 23 or 25 hours at times
CREATE FUNCTION quota_reference.elapsed(p_from timestamptz, p_to timestamptz) RETURNS interval
	LANGUAGE sql IMMUTABLE
AS $$
	SELECT make_interval(secs => extract(epoch FROM p_to - p_from)::float8)
$$;

-- Units that a window has left at p_at, now or later, if nothing else happens;
-- below 0 if more is used than the limit allows, NULL = unlimited.  After the end
-- of its period all is left: what is held stays behind.
CREATE FUNCTION quota_reference.left_at(a quota_reference.account, p_at timestamptz) RETURNS numeric
	LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
	RETURN CASE WHEN a.period_end <= p_at THEN a.limit_amount ELSE a.limit_amount - a.used - a.held END;
END
$$;

-- Bonus units that extend a window at p_at
CREATE FUNCTION quota_reference.bonus_at(
	p_subject quota_reference.subject, a quota_reference.account, p_at timestamptz)
	RETURNS numeric
	LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
	b		quota_reference.bonus;
	v_sum	numeric := 0;
BEGIN
	IF a.rank = 1 THEN
		FOREACH b IN ARRAY p_subject.bonuses LOOP
			IF b.expires_at IS NULL OR b.expires_at > p_at THEN
				v_sum := v_sum + b.rest;
			END IF;
		END LOOP;
	END IF;
	RETURN v_sum;
END
$$;

-- Would a window have room for a request at p_at?  One in shadow mode never
-- takes from bonuses, so what was used beyond its limit counts against them.
CREATE FUNCTION quota_reference.has_room(
	p_subject quota_reference.subject, a quota_reference.account, p_amount numeric, p_at timestamptz)
	RETURNS boolean
	LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
	v_left	numeric := quota_reference.left_at(a, p_at);
BEGIN
	IF a.limit_amount IS NULL THEN
		RETURN true;
	END IF;
	IF a.mode <> 'shadow' THEN
		v_left := greatest(v_left, 0);
	END IF;
	RETURN p_amount <= v_left + quota_reference.bonus_at(p_subject, a, p_at);
END
$$;

-- Does a window let a request pass at p_at?  Soft limits do, the allowance up to
-- its spend cap.
CREATE FUNCTION quota_reference.admits(
	p_subject quota_reference.subject, a quota_reference.account, p_amount numeric, p_at timestamptz)
	RETURNS boolean
	LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
	IF a.mode = 'shadow' OR quota_reference.has_room(p_subject, a, p_amount, p_at) THEN
		RETURN true;
	ELSIF a.mode = 'hard' THEN
		RETURN false;
	ELSIF a.rank > 1 OR a.spend_cap IS NULL THEN
		RETURN true;
	END IF;
	RETURN CASE WHEN a.period_end <= p_at THEN 0 ELSE a.cost END
		   + a.price * (p_amount - greatest(quota_reference.left_at(a, p_at), 0)
								 - quota_reference.bonus_at(p_subject, a, p_at)) <= a.spend_cap;
END
$$;

-- The present state as an answer that grants nothing: of the window that is
-- named, or else of the one that binds.  Windows that deny or cost come before
-- unlimited ones, and these before those that let everything pass; then the least
-- remaining, then the longest.
CREATE FUNCTION quota_reference.state(
	p_subject quota_reference.subject, p_now timestamptz, p_period text DEFAULT NULL)
	RETURNS quota.outcome
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	r		record;
	v_bonus	numeric := (SELECT coalesce(sum(b.rest), 0) FROM unnest(p_subject.bonuses) AS b);
BEGIN
	SELECT a.*, CASE WHEN a.limit_amount IS NOT NULL
				THEN greatest(quota_reference.left_at(a, p_now), 0) + quota_reference.bonus_at(p_subject, a, p_now)
				END AS remaining
	  INTO r
	  FROM unnest(p_subject.accounts) AS a
	 WHERE p_period IS NULL OR a.period = p_period
	 ORDER BY CASE WHEN a.limit_amount IS NULL THEN 2
				   WHEN a.mode = 'hard' OR (a.mode = 'soft' AND a.rank = 1) THEN 1
				   ELSE 3 END,
			  remaining, a.rank
	 LIMIT 1;
	-- without a limit there is nothing that bonuses could extend
	IF NOT FOUND THEN
		RETURN ROW(true, 0, NULL, 0, false, 'ok', p_subject.metric, NULL, 0, 0, 0, 0,
				   NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL)::quota.outcome;
	END IF;
	RETURN ROW(true, r.remaining, r.limit_amount, 0, false, 'ok', p_subject.metric, r.period, r.used, v_bonus, 0, 0,
			   r.period_start, r.period_end, NULL, NULL, p_subject.user_id, 0, NULL, NULL)::quota.outcome;
END
$$;

-- Decide on one level.  The answer tells the present state, and in bonus_used,
-- overage, cost and granted what the request would move.
CREATE FUNCTION quota_reference.decide(
	p_subject quota_reference.subject, p_amount numeric, p_now timestamptz)
	RETURNS quota.outcome
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	a			quota_reference.account;
	v_out		quota.outcome;
	v_denying	text;
	v_left		numeric;
BEGIN
	IF cardinality(p_subject.accounts) = 0 THEN
		v_out := quota_reference.state(p_subject, p_now);
		v_out.allowed := false;
		v_out.reason := 'not_in_plan';
		RETURN v_out;
	END IF;

	-- of several windows that deny the one that does so longest binds
	SELECT w.period INTO v_denying
	  FROM unnest(p_subject.accounts) AS w
	 WHERE NOT quota_reference.admits(p_subject, w, p_amount, p_now)
	 ORDER BY CASE WHEN quota_reference.admits(p_subject, w, p_amount, w.period_end) THEN w.period_end END DESC NULLS FIRST,
			  w.rank
	 LIMIT 1;
	IF FOUND THEN
		v_out := quota_reference.state(p_subject, p_now, v_denying);
		v_out.allowed := false;
		SELECT * INTO a FROM unnest(p_subject.accounts) AS w WHERE w.period = v_denying;
		v_out.reason := CASE WHEN a.mode = 'soft' THEN 'spend_cap'
							 WHEN a.limit_amount = 0 AND v_out.remaining = 0 THEN 'not_in_plan'
							 ELSE 'quota_exceeded' END;
		RETURN v_out;
	END IF;

	-- a shadow limit that would have denied is what the answer is about
	SELECT w.period INTO v_denying
	  FROM unnest(p_subject.accounts) AS w
	 WHERE w.mode = 'shadow' AND NOT quota_reference.has_room(p_subject, w, p_amount, p_now)
	 ORDER BY CASE WHEN quota_reference.has_room(p_subject, w, p_amount, w.period_end) THEN w.period_end END DESC NULLS FIRST,
			  w.rank
	 LIMIT 1;
	v_out := quota_reference.state(p_subject, p_now, v_denying);

	-- what pays for it: the allowance, as far as it goes, then bonuses, then money
	SELECT * INTO a FROM unnest(p_subject.accounts) AS w WHERE w.rank = 1;
	v_left := p_amount;
	IF a.limit_amount IS NOT NULL AND a.mode <> 'shadow' THEN
		v_left := greatest(quota_reference.left_at(a, p_now), 0);
	END IF;
	v_out.granted := p_amount;
	v_out.bonus_used := least(greatest(p_amount - v_left, 0), v_out.bonus_remaining);
	v_out.overage := greatest(p_amount - v_left - v_out.bonus_used, 0);
	v_out.cost := trim_scale(v_out.overage * a.price);
	v_out.reason := CASE WHEN v_denying IS NOT NULL THEN 'shadow'
						 WHEN v_out.overage > 0 THEN 'overage'
						 WHEN v_out.bonus_used > 0 THEN 'bonus'
						 ELSE 'ok' END;
	RETURN v_out;
END
$$;

-- Do all windows of some levels, of which there is one at least, admit a request?
CREATE FUNCTION quota_reference.all_admit(p_levels quota_reference.subject[], p_amount numeric, p_at timestamptz)
	RETURNS boolean
	LANGUAGE sql STABLE
AS $$
	SELECT bool_and(quota_reference.admits(s, a, p_amount, p_at)) IS TRUE
	  FROM unnest(p_levels) AS s, unnest(s.accounts) AS a
$$;

-- When a denied request would be granted by waiting alone: by all levels that have
-- limits, or as far as one of them is concerned.  Room comes back where a period
-- ends.  Where a limit or a hold ends before that, everything is looked at again as
-- of then.
CREATE FUNCTION quota_reference.retry_after(
	p_user_id uuid, p_metric text, p_amount numeric, p_now timestamptz, p_whom uuid DEFAULT NULL)
	RETURNS interval
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_at		timestamptz := p_now;
	v_state		record;
	v_asked		quota_reference.subject[];
	v_granted	timestamptz;
	v_change	timestamptz;
BEGIN
	LOOP
		v_state := quota_reference.levels_as_of(p_user_id, p_metric, v_at);
		v_asked := ARRAY(SELECT s FROM unnest(v_state.levels) AS s
						  WHERE s.user_id = coalesce(p_whom, s.user_id) AND cardinality(s.accounts) > 0);
		IF quota_reference.all_admit(v_asked, p_amount, v_state.moment)
		   OR (p_whom IS NOT NULL AND v_asked = '{}')
		THEN
			v_granted := v_state.moment;
		ELSE
			SELECT min(a.period_end) INTO v_granted
			  FROM unnest(v_asked) AS s, unnest(s.accounts) AS a
			 WHERE a.period_end IS NOT NULL
			   AND quota_reference.all_admit(v_asked, p_amount, a.period_end);
		END IF;
		SELECT least(min(s.valid_until), min(h.expires_at)) INTO v_change
		  FROM unnest(v_state.levels) AS s
		  LEFT JOIN LATERAL quota_reference.open_holds(s.user_id, p_metric) AS h ON h.expires_at > v_state.moment;
		IF v_change IS NULL OR v_change - p_now > interval '365250 days' OR v_granted < v_change THEN
			RETURN quota_reference.elapsed(p_now, v_granted);
		END IF;
		v_at := v_change;
	END LOOP;
END
$$;

-- The most that a subject could be granted; NULL = no bound
CREATE FUNCTION quota_reference.grantable(p_subject quota_reference.subject, p_now timestamptz) RETURNS numeric
	LANGUAGE sql STABLE
AS $$
	SELECT min(greatest(quota_reference.left_at(a, p_now), 0) + quota_reference.bonus_at(p_subject, a, p_now)
			   + CASE WHEN a.mode = 'hard' THEN 0
					  ELSE div(greatest(a.spend_cap - a.cost, 0) * 1000000, a.price) / 1000000 END)
	  FROM unnest(p_subject.accounts) AS a
	 WHERE a.limit_amount IS NOT NULL
	   AND (a.mode = 'hard' OR (a.mode = 'soft' AND a.rank = 1 AND a.spend_cap IS NOT NULL AND a.price > 0))
$$;

-- One answer out of those of several levels, the subject's own first
CREATE FUNCTION quota_reference.combine(p_outs quota.outcome[]) RETURNS quota.outcome
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_place	integer;
	v_out	quota.outcome;
BEGIN
	-- of those that deny the one that does so longest; else the least remaining
	SELECT o.place INTO v_place
	  FROM unnest(p_outs) WITH ORDINALITY AS o (allowed, remaining, limit_amount, bonus_used, already_processed, reason,
			metric, period, used, bonus_remaining, overage, cost, period_start, resets_at, retry_after, event_id,
			binding_user_id, granted, reservation_id, shortfall, place)
	 ORDER BY o.allowed,
			  CASE WHEN NOT o.allowed THEN o.retry_after END DESC NULLS FIRST,
			  o.period IS NULL,
			  CASE WHEN o.allowed THEN o.remaining END NULLS LAST,
			  o.place
	 LIMIT 1;
	v_out := p_outs[v_place];
	IF v_out.allowed THEN
		SELECT sum(o.bonus_used), sum(o.overage), sum(o.cost),
			   (ARRAY['shadow', 'overage', 'bonus', 'ok'])[min(array_position(ARRAY['shadow', 'overage', 'bonus', 'ok'], o.reason))]
		  INTO v_out.bonus_used, v_out.overage, v_out.cost, v_out.reason
		  FROM unnest(p_outs) AS o;
	ELSE
		v_out.bonus_used := 0;
		v_out.overage := 0;
		v_out.cost := 0;
		v_out.granted := 0;
	END IF;
	-- numbers are told without trailing zeros
	v_out.remaining := trim_scale(v_out.remaining);
	v_out.limit_amount := trim_scale(v_out.limit_amount);
	v_out.used := trim_scale(v_out.used);
	v_out.bonus_remaining := trim_scale(v_out.bonus_remaining);
	v_out.bonus_used := trim_scale(v_out.bonus_used);
	v_out.overage := trim_scale(v_out.overage);
	v_out.cost := trim_scale(v_out.cost);
	v_out.granted := trim_scale(v_out.granted);
	RETURN v_out;
END
$$;
