-- ---------------------------------------------------------------------------
-- Requests of a subject: consume, reserve, release, set_gauge
-- ---------------------------------------------------------------------------

-- Raises 22023 with what is wrong with a request, if anything is
CREATE FUNCTION quota_reference.validate(
	p_user_id uuid,
	p_metric text,
	p_amount numeric,
	p_idempotency_key text,
	p_metadata jsonb)
	RETURNS void
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_fault	text := CASE
		WHEN p_user_id IS NULL THEN 'user must not be null'
		WHEN p_metric IS NULL OR p_metric = '' THEN 'metric must not be null or empty'
		WHEN p_amount IS NULL THEN 'amount must not be null'
		-- NaN sorts above all numbers
		WHEN NOT (p_amount > 0 AND p_amount < 1e18) THEN 'amount must be above 0 and below 10^18'
		WHEN p_amount <> round(p_amount, 6) THEN 'amount must have at most 6 decimals'
		WHEN p_idempotency_key = '' THEN 'idempotency key must not be empty'
		WHEN jsonb_typeof(p_metadata) <> 'object' THEN 'metadata must be a JSON object'
		-- "||" returns it uncompressed
		WHEN pg_column_size(p_metadata || '{}') > 65536 THEN 'metadata must not be larger than 64 kB'
	END;
BEGIN
	IF v_fault IS NOT NULL THEN
		RAISE EXCEPTION '%', v_fault USING ERRCODE = 'invalid_parameter_value';
	END IF;
END
$$;

-- What an idempotency key is kept as; the metric without aliases
CREATE FUNCTION quota_reference.key_hash(p_user_id uuid, p_metric text, p_key text) RETURNS bytea
	LANGUAGE sql STABLE
AS $$
	SELECT sha256(uuid_send(p_user_id)
				  || int4send(octet_length(p_metric)) || convert_to(p_metric, getdatabaseencoding())
				  || int4send(octet_length(p_key)) || convert_to(p_key, getdatabaseencoding()))
$$;

-- The accounts of a gauge that is not limited any more, if the longest window has
-- any units: what was acquired can be given back all the same
CREATE FUNCTION quota_reference.adopted(p_user_id uuid, p_metric text) RETURNS quota_reference.account[]
	LANGUAGE sql STABLE
AS $$
	SELECT CASE WHEN sum(t.units) FILTER (WHERE t.rank = 1) > 0
		   THEN array_agg(ROW(t.period, NULL, 'calendar', 'hard', 0, NULL, false, t.period_start, t.period_end,
							  t.used, t.held, t.cost + t.held_cost, t.anchor, t.holds_expire_at, t.rank,
							  false, false)::quota_reference.account ORDER BY t.period)
		   ELSE '{}' END
	  FROM (SELECT *, x.used + x.bonus_used + x.overage AS units,
				   row_number() OVER (ORDER BY quota_reference.period_length(x.period) DESC, x.period) AS rank
			  FROM quota.usage_tracking AS x
			 WHERE x.user_id = p_user_id AND x.metric = p_metric) AS t
$$;

-- Who is charged at p_now: for each metric the subject and its parents.  Accounts
-- that were made to be locked are missing to the decision.
CREATE FUNCTION quota_reference.charges(
	p_user_id uuid, p_metrics text[], p_now timestamptz, p_created text[] DEFAULT '{}')
	RETURNS quota_reference.charge[]
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	s			quota_reference.subject;
	a			quota_reference.account;
	v_charges	quota_reference.charge[] := '{}';
BEGIN
	FOR i IN 1 .. cardinality(p_metrics) LOOP
		FOREACH s IN ARRAY quota_reference.levels(p_user_id, p_metrics[i], p_now) LOOP
			FOR j IN 1 .. CASE WHEN p_created = '{}' THEN 0 ELSE cardinality(s.accounts) END LOOP
				a := s.accounts[j];
				IF format('%s %s %s', s.user_id, s.metric, a.period) = ANY (p_created) THEN
					a.used := NULL;
					a.period_start := NULL;
					a.period_end := NULL;
					a.anchor := NULL;
					s.accounts[j] := a;
				END IF;
			END LOOP;
			v_charges := v_charges || ROW(i, s, NULL, NULL, '{}')::quota_reference.charge;
		END LOOP;
	END LOOP;
	RETURN v_charges;
END
$$;

-- Charges as_at() p_now; NULL if their limits do not count any more by then
CREATE FUNCTION quota_reference.charges_at(p_charges quota_reference.charge[], p_now timestamptz)
	RETURNS quota_reference.charge[]
	LANGUAGE plpgsql STABLE
AS $$
BEGIN
	FOR i IN 1 .. cardinality(p_charges) LOOP
		IF ((p_charges[i]).subject).valid_until <= p_now THEN
			RETURN NULL;
		END IF;
		p_charges[i].subject := quota_reference.as_at((p_charges[i]).subject, p_now);
	END LOOP;
	RETURN p_charges;
END
$$;

-- The time of a call: p_at, or what one of the accounts has reached already
CREATE FUNCTION quota_reference.time_of_charges(p_charges quota_reference.charge[], p_at timestamptz)
	RETURNS timestamptz
	LANGUAGE sql STABLE
AS $$
	SELECT max(quota_reference.time_of(c.subject, p_at)) FROM unnest(p_charges) AS c
$$;

-- What a gauge gives back of what an account has, last source first, at most all
CREATE FUNCTION quota_reference.give_back(
	INOUT c quota_reference.charge, p_period text, p_amount numeric)
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	t		quota.usage_tracking;
	v_units	numeric;
BEGIN
	SELECT * INTO t FROM quota.usage_tracking AS x
	 WHERE x.user_id = (c.subject).user_id AND x.metric = (c.subject).metric AND x.period = p_period;
	-- of an account that is new, or about to start again, there is nothing
	IF t.user_id IS NULL
	   OR EXISTS (SELECT FROM unnest((c.subject).accounts) AS a WHERE a.period = p_period AND (a.is_new OR a.is_moved))
	THEN
		t.used := 0;
		t.bonus_used := 0;
		t.overage := 0;
		t.cost := 0;
	END IF;
	v_units := least(p_amount, t.used + t.bonus_used + t.overage);
	c.answer.granted := -v_units;
	c.answer.overage := -least(v_units, t.overage);
	c.answer.bonus_used := -least(v_units + (c.answer).overage, t.bonus_used);
	c.answer.cost := quota_reference.kept_cost(t.cost, t.overage, t.overage + (c.answer).overage) - t.cost;
	c.lines := quota_reference.return_lines((c.subject).user_id, (c.subject).metric, -(c.answer).bonus_used);
END
$$;

-- Decide one charge of p_amount: its answer tells the present state and what would
-- move, its lines which bonuses
CREATE FUNCTION quota_reference.decide_charge(
	INOUT c quota_reference.charge, p_user_id uuid, p_kind text, p_amount numeric, p_now timestamptz)
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_allowance	text := (SELECT a.period FROM unnest((c.subject).accounts) AS a WHERE a.rank = 1);
BEGIN
	IF p_kind IN ('consume', 'reserve') THEN
		c.answer := quota_reference.decide(c.subject, p_amount, p_now);
		c.lines := quota_reference.take_lines((c.subject).bonuses, (c.answer).bonus_used);
		IF NOT (c.answer).allowed THEN
			c.answer.retry_after := quota_reference.retry_after(
				p_user_id, (c.subject).metric, p_amount, p_now, (c.subject).user_id);
		END IF;
		RETURN;
	END IF;

	-- facts are not denied
	IF (c.subject).kind <> 'gauge' THEN
		RAISE EXCEPTION 'metric "%" is not a gauge', (c.subject).metric USING ERRCODE = 'invalid_parameter_value';
	END IF;
	c.answer := quota_reference.state(c.subject, p_now);
	c.lines := '{}';
	IF p_kind = 'release' AND v_allowance IS NULL THEN
		c.subject.accounts := quota_reference.adopted((c.subject).user_id, (c.subject).metric);
		SELECT a.period INTO v_allowance FROM unnest((c.subject).accounts) AS a WHERE a.rank = 1;
	END IF;
	IF v_allowance IS NOT NULL AND p_amount < 0 THEN
		c := quota_reference.give_back(c, v_allowance, -p_amount);
	ELSIF v_allowance IS NOT NULL THEN
		c.answer.granted := p_amount;
	END IF;
END
$$;

-- By how much a gauge has to move to stand at p_value: that of the subject, or of
-- its nearest parent that has one; NULL = none has
CREATE FUNCTION quota_reference.gauge_difference(p_charges quota_reference.charge[], p_value numeric) RETURNS numeric
	LANGUAGE sql STABLE
AS $$
	SELECT p_value - CASE WHEN m.is_new OR m.is_moved THEN 0 ELSE t.used + t.bonus_used + t.overage END
	  FROM (SELECT (c.subject).user_id, (c.subject).metric, a.*
			  FROM unnest(p_charges) WITH ORDINALITY AS c (item, subject, event, answer, lines, place),
				   unnest((c.subject).accounts) AS a
			 WHERE a.rank = 1
			 ORDER BY c.place LIMIT 1) AS m
	  LEFT JOIN quota.usage_tracking AS t ON t.user_id = m.user_id AND t.metric = m.metric AND t.period = m.period
$$;

-- The charges of one item, the subject's own first; without limits of its own a
-- subject leaves it to its parents
CREATE FUNCTION quota_reference.charged(p_charges quota_reference.charge[], p_item integer)
	RETURNS quota_reference.charge[]
	LANGUAGE sql STABLE
AS $$
	SELECT array_agg(ROW(c.item, c.subject, c.event, c.answer, c.lines)::quota_reference.charge ORDER BY c.place)
		   FILTER (WHERE c.n = 1 OR cardinality((c.subject).accounts) > 0)
	  FROM (SELECT x.*, count(*) OVER () AS n
			  FROM unnest(p_charges) WITH ORDINALITY AS x (item, subject, event, answer, lines, place)
			 WHERE x.item = p_item) AS c
$$;

-- The answer to an item that has been decided.  How long it denies is up to all its
-- levels together, what else is told to the one that denies longest.
CREATE FUNCTION quota_reference.answer_item(
	p_charges quota_reference.charge[], p_item integer, p_user_id uuid, p_amount numeric, p_now timestamptz)
	RETURNS quota.outcome
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_out	quota.outcome := quota_reference.combine(
		ARRAY(SELECT c.answer FROM unnest(quota_reference.charged(p_charges, p_item)) AS c));
BEGIN
	IF NOT v_out.allowed THEN
		v_out.retry_after := quota_reference.retry_after(p_user_id, v_out.metric, p_amount, p_now);
	END IF;
	RETURN v_out;
END
$$;

-- The answer to a request that is not granted: of the state only
CREATE FUNCTION quota_reference.refuse(p_outs quota.outcome[], p_reason text) RETURNS quota.outcome
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_out	quota.outcome;
BEGIN
	FOR i IN 1 .. cardinality(p_outs) LOOP
		p_outs[i].allowed := true;
	END LOOP;
	v_out := quota_reference.combine(p_outs);
	v_out.allowed := false;
	v_out.reason := p_reason;
	v_out.bonus_used := 0;
	v_out.overage := 0;
	v_out.cost := 0;
	v_out.granted := 0;
	v_out.retry_after := NULL;
	RETURN v_out;
END
$$;

-- Write what one charge moves, as an event
CREATE FUNCTION quota_reference.enter_charge(
	c quota_reference.charge, p_kind text, p_id uuid, p_main uuid, p_requested numeric, p_ttl interval,
	p_hash bytea, p_metadata jsonb, p_now timestamptz)
	RETURNS void
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	e		quota.usage_events;
	v_out	quota.outcome := c.answer;
BEGIN
	e.id := p_id;
	e.user_id := (c.subject).user_id;
	e.metric := (c.subject).metric;
	e.kind := p_kind;
	-- a window that has less than a gauge gives back has never counted these units
	SELECT max(a.period) FILTER (WHERE a.rank = 1),
		   array_agg(a.period ORDER BY a.period) FILTER (WHERE a.rank > 1 AND a.used + v_out.granted >= 0)
	  INTO e.period, e.rate_periods
	  FROM unnest((c.subject).accounts) AS a;
	e.key_hash := p_hash;
	e.metadata := p_metadata;
	e.created_at := p_now;
	e.refers_to := nullif(p_main, p_id);
	e.requested := nullif(p_requested, v_out.granted);
	IF p_kind = 'reserve' THEN
		e.amount := 0;
		e.bonus_used := 0;
		e.overage := 0;
		e.cost := 0;
		e.expires_at := p_now + p_ttl;
		e.held := v_out.granted;
		e.held_bonus := nullif(v_out.bonus_used, 0);
		e.held_overage := nullif(v_out.overage, 0);
		e.held_cost := nullif(v_out.cost, 0);
		c.lines := ARRAY(SELECT ROW(l.bonus_id, 0, l.amount)::quota_reference.line FROM unnest(c.lines) AS l);
	ELSE
		e.amount := v_out.granted;
		e.bonus_used := v_out.bonus_used;
		e.overage := v_out.overage;
		e.cost := v_out.cost;
	END IF;
	PERFORM quota_reference.enter(e, c.lines);
END
$$;

-- One request for one or more metrics of a subject, all or nothing.  p_kind:
-- consume, reserve, release, set_gauge; p_amounts as asked, for set_gauge the level.
-- Returns the answers in the order of p_metrics.
CREATE FUNCTION quota_reference.request(
	p_kind text,
	p_user_id uuid,
	p_metrics text[],
	p_amounts numeric[],
	p_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL,
	p_ttl interval DEFAULT NULL,
	p_up_to boolean DEFAULT false)
	RETURNS quota.outcome[]
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_hashes	bytea[];
	v_asked		numeric[] := p_amounts;		-- signed
	v_amounts	numeric[];
	v_now		timestamptz;
	v_charges	quota_reference.charge[];
	v_levels	quota_reference.charge[];	-- of one item, without those that have no limits
	v_events	quota.usage_events[];
	e			quota.usage_events;
	v_outs		quota.outcome[];
	v_granted	boolean;
	v_released	boolean;
	v_answered	boolean;
	v_locked	text[] := '{}';
	v_created	text[] := '{}';
	v_complete	boolean := false;
	v_bonuses_locked boolean := false;
	v_id		uuid;
	v_main		uuid;
BEGIN
	FOR i IN 1 .. cardinality(p_metrics) LOOP
		p_metrics[i] := quota_reference.metric_name(p_metrics[i]);
		v_hashes[i] := quota_reference.key_hash(p_user_id, p_metrics[i], p_key);
		IF p_kind = 'release' THEN
			v_asked[i] := -p_amounts[i];
		END IF;
	END LOOP;
	IF (SELECT count(DISTINCT m) FROM unnest(p_metrics) AS m) < cardinality(p_metrics) THEN
		RAISE EXCEPTION 'a metric is named more than once' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	-- First on the committed state, which is enough for a denial, then again on the
	-- locked one.
	LOOP
		-- an account's time never runs backwards, nor does the time of a call
		v_now := greatest(v_now, quota.clock());
		v_charges := quota_reference.charges(p_user_id, p_metrics, v_now, v_created);
		v_now := quota_reference.time_of_charges(v_charges, v_now);
		v_charges := quota_reference.charges_at(v_charges, v_now);
		CONTINUE WHEN v_charges IS NULL;

		v_amounts := v_asked;
		IF p_up_to THEN
			-- where there is nothing, the least amount that can be is denied
			v_amounts[1] := (SELECT greatest(least(v_asked[1], min(quota_reference.grantable(c.subject, v_now))), 0.000001)
							   FROM unnest(v_charges) AS c);
		ELSIF p_kind = 'set_gauge' THEN
			v_amounts[1] := coalesce(quota_reference.gauge_difference(v_charges, v_asked[1]), 0);
		END IF;

		v_granted := true;
		v_released := false;
		FOR i IN 1 .. cardinality(v_charges) LOOP
			v_charges[i] := quota_reference.decide_charge(v_charges[i], p_user_id, p_kind, v_amounts[(v_charges[i]).item], v_now);
			-- parents give back as much as the subject had to give back
			IF p_kind = 'release' AND NOT v_released AND cardinality(((v_charges[i]).subject).accounts) > 0 THEN
				v_amounts[1] := ((v_charges[i]).answer).granted;
				v_released := true;
			END IF;
		END LOOP;
		FOR v_item IN 1 .. cardinality(p_metrics) LOOP
			v_outs[v_item] := quota_reference.answer_item(v_charges, v_item, p_user_id, v_amounts[v_item], v_now);
			IF p_kind = 'set_gauge' AND v_outs[v_item].period IS NULL THEN
				v_outs[v_item].allowed := false;
				v_outs[v_item].reason := 'not_in_plan';
				v_outs[v_item].retry_after := quota_reference.retry_after(p_user_id, p_metrics[v_item], 0, v_now);
			END IF;
			v_granted := v_granted AND v_outs[v_item].allowed;
		END LOOP;

		IF v_granted THEN
			-- whoever waited reads and decides again
			SELECT * INTO v_locked, v_created, v_complete
			  FROM quota_reference.lock_accounts(v_charges, true, v_locked, v_created);
			CONTINUE WHEN NOT v_complete;
			IF NOT v_bonuses_locked
			   AND (EXISTS (SELECT FROM unnest(v_charges) AS c WHERE (c.answer).bonus_used <> 0)
					OR EXISTS (SELECT FROM unnest(v_charges) AS c JOIN quota.user_bonuses AS b
								 ON b.user_id = (c.subject).user_id AND b.metric = (c.subject).metric
								WHERE b.held_amount > 0))
			THEN
				PERFORM quota_reference.lock_bonuses(v_charges);
				v_bonuses_locked := true;
				CONTINUE;
			END IF;
		END IF;

		-- Was the key used before?  All calls that could use it take the same
		-- lock, so once it is held the answer is final.
		v_answered := NOT v_granted;
		IF p_key IS NOT NULL THEN
			v_events := '{}';
			FOR i IN 1 .. cardinality(p_metrics) LOOP
				SELECT x.* INTO e FROM quota.usage_events AS x WHERE x.key_hash = v_hashes[i];
				v_events[i] := e;
			END LOOP;
			IF (SELECT bool_or(x.id IS NOT NULL) FROM unnest(v_events) AS x) THEN
				v_answered := true;
				IF (SELECT bool_and(x.kind IS NOT DISTINCT FROM p_kind
									AND coalesce(x.requested, CASE x.kind WHEN 'reserve' THEN x.held ELSE x.amount END) = v_asked[n]
									AND (p_up_to OR p_kind = 'release' OR (x.outcome).granted = v_asked[n]))
					  FROM generate_subscripts(v_events, 1) AS n, LATERAL (SELECT (v_events[n]).*) AS x)
				THEN
					FOR i IN 1 .. cardinality(p_metrics) LOOP
						v_outs[i] := (v_events[i]).outcome;
						v_outs[i].already_processed := true;
					END LOOP;
				ELSE
					-- the present state, as what was asked for meets it
					FOR i IN 1 .. CASE WHEN p_up_to THEN cardinality(v_charges) ELSE 0 END LOOP
						v_charges[i] := quota_reference.decide_charge(v_charges[i], p_user_id, p_kind, v_asked[1], v_now);
					END LOOP;
					FOR i IN 1 .. cardinality(p_metrics) LOOP
						v_outs[i] := quota_reference.refuse(
							ARRAY(SELECT c.answer FROM unnest(quota_reference.charged(v_charges, i)) AS c),
							CASE WHEN (v_events[i]).id IS NULL THEN 'other_denied' ELSE 'idempotency_conflict' END);
					END LOOP;
				END IF;
			END IF;
		END IF;

		IF v_answered THEN
			FOR i IN 1 .. cardinality(p_metrics) LOOP
				-- had room, but goes with one that had not
				IF v_outs[i].allowed AND NOT v_outs[i].already_processed THEN
					v_outs[i] := quota_reference.refuse(
						ARRAY(SELECT c.answer FROM unnest(quota_reference.charged(v_charges, i)) AS c), 'other_denied');
				END IF;
				PERFORM quota_reference.audit(p_user_id, p_kind, p_amounts[i], v_outs[i], v_now);
			END LOOP;
			-- leave no account behind that nothing was charged to
			IF v_created <> '{}' THEN
				DELETE FROM quota.usage_tracking AS t
				 USING unnest(v_charges) AS c
				 WHERE t.user_id = (c.subject).user_id AND t.metric = (c.subject).metric
				   AND format('%s %s %s', t.user_id, t.metric, t.period) = ANY (v_created);
			END IF;
			RETURN v_outs;
		END IF;
		EXIT;
	END LOOP;

	-- Granted
	FOR i IN 1 .. cardinality(p_metrics) LOOP
		v_levels := quota_reference.charged(v_charges, i);
		v_main := NULL;
		IF cardinality(((v_levels[1]).subject).accounts) > 0 THEN
			v_main := quota.new_id(v_now);
			v_id := v_main;
			FOR j IN 1 .. cardinality(v_levels) LOOP
				PERFORM quota_reference.write_due((v_levels[j]).subject, NULL, v_now);
				PERFORM quota_reference.enter_charge(v_levels[j], p_kind, v_id, v_main,
					-- parents are asked for what the subject got
					CASE WHEN p_kind = 'set_gauge' THEN v_amounts[i]
						 WHEN j > 1 THEN ((v_levels[1]).answer).granted
						 ELSE v_asked[i] END, p_ttl,
					CASE WHEN v_id = v_main THEN v_hashes[i] END, p_metadata, v_now);
				v_id := quota.new_id(v_now);
			END LOOP;
		END IF;
		v_outs[i] := quota_reference.answer(v_levels, v_now);
		v_outs[i].event_id := v_main;
		v_outs[i].reservation_id := CASE WHEN p_kind = 'reserve' THEN v_main END;
		IF v_hashes[i] IS NOT NULL THEN
			UPDATE quota.usage_events AS x SET outcome = v_outs[i] WHERE x.id = v_main;
		END IF;
		PERFORM quota_reference.audit(p_user_id, p_kind, p_amounts[i], v_outs[i], v_now);
	END LOOP;
	RETURN v_outs;
END
$$;
