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
		-- Each window has its room back by the end of its period, and by then
		-- bonuses may have expired that another one needs: the first of these
		-- times at which all have room.
		SELECT quota_reference.elapsed(p_now, min(w.period_end)) INTO v_out.retry_after
		  FROM unnest(p_subject.accounts) AS w
		 WHERE w.period_end IS NOT NULL
		   AND NOT EXISTS (SELECT FROM unnest(p_subject.accounts) AS l
							WHERE NOT quota_reference.admits(p_subject, l, p_amount, w.period_end));
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

-- When a denied request would be granted by waiting alone.  The decision knows
-- the limits and holds of now; where one of them ends before that, the request is
-- decided again as of then.
CREATE FUNCTION quota_reference.retry_after(
	p_subject quota_reference.subject, p_amount numeric, p_now timestamptz, p_retry_after interval)
	RETURNS interval
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_subject	quota_reference.subject := p_subject;
	v_moment	timestamptz := p_now;
	v_wait		interval := p_retry_after;
	v_at		timestamptz;
	v_state		record;
	v_out		quota.outcome;
BEGIN
	LOOP
		SELECT least(v_subject.valid_until, min(h.expires_at)) INTO v_at
		  FROM quota_reference.open_holds(p_subject.user_id, p_subject.metric) AS h
		 WHERE h.expires_at > v_moment;
		IF v_at IS NULL OR v_at - p_now > interval '365250 days' OR v_moment + v_wait < v_at THEN
			RETURN quota_reference.elapsed(p_now, v_moment) + v_wait;
		END IF;
		v_state := quota_reference.as_of(p_subject.user_id, p_subject.metric, v_at);
		v_subject := v_state.subject;
		v_moment := v_state.moment;
		v_out := quota_reference.decide(v_subject, p_amount, v_moment);
		v_wait := CASE WHEN v_out.allowed THEN interval '0' ELSE v_out.retry_after END;
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
