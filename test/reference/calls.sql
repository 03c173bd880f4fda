-- ---------------------------------------------------------------------------
-- The calls, as the extension has them
-- ---------------------------------------------------------------------------

-- Consuming --------------------------------------------------------------------

CREATE FUNCTION quota_reference.check_and_consume_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_subject	quota_reference.subject;
	a			quota_reference.account;
	v_metric	text;
	v_hash		bytea;
	v_now		timestamptz;
	v_bonus		numeric;
	v_held		boolean;
	v_out		quota.outcome;
	v_period	text;
	v_limit		numeric;
	v_start		timestamptz;
	v_end		timestamptz;
	v_used		numeric;
	v_room		numeric;
	v_common	boolean;
BEGIN
	-- a short look at most requests, a long one at those that may be refused
	IF (p_user_id IS NOT NULL AND p_metric <> '' AND p_amount > 0 AND p_amount < 1e18 AND scale(p_amount) <= 6
		AND p_idempotency_key <> '' IS NOT FALSE AND p_metadata IS NULL) IS NOT TRUE
	THEN
		PERFORM quota_reference.validate(p_user_id, p_metric, p_amount, p_idempotency_key, p_metadata);
	END IF;

	v_subject := quota_reference.resolve(p_user_id, p_metric, quota.clock());
	v_metric := v_subject.metric;

	IF p_idempotency_key IS NOT NULL THEN
		v_hash := quota_reference.key_hash(p_user_id, v_metric, p_idempotency_key);
	END IF;

	-- The common call: one subject, one window, whose period is open and has room,
	-- and no hold that could lapse.  Bonuses are not touched, only reported.
	IF cardinality(v_subject.accounts) = 1 AND v_subject.parent IS NULL THEN
		a := v_subject.accounts[1];
		v_period := a.period;
		v_limit := a.limit_amount;
		IF a.used IS NOT NULL AND (a.used + a.held + p_amount > v_limit) IS NOT TRUE AND a.holds_expire_at IS NULL
		   AND (v_subject.kind <> 'counter' OR v_period = 'lifetime') = (a.period_end IS NULL)
		THEN
			SELECT t.period_start, t.period_end, t.used + p_amount, v_limit - t.held - t.used - p_amount,
				   t.holds_expire_at IS NOT NULL
			  INTO v_start, v_end, v_used, v_room, v_held
			  FROM quota.usage_tracking AS t
			 WHERE t.user_id = p_user_id AND t.metric = v_metric AND t.period = v_period
			   FOR NO KEY UPDATE;
			v_now := greatest(quota.clock(), v_start);
			v_common := v_used IS NOT NULL AND (v_room < 0) IS NOT TRUE AND (v_end <= v_now) IS NOT TRUE
						AND (v_subject.valid_until <= v_now) IS NOT TRUE AND NOT v_held;
			IF v_common AND v_hash IS NOT NULL THEN
				v_common := NOT EXISTS (SELECT FROM quota.usage_events AS e WHERE e.key_hash = v_hash);
			END IF;
			IF v_common THEN
				SELECT coalesce(sum(b.amount - b.used_amount - b.given_amount)
								FILTER (WHERE b.expires_at IS NULL OR b.expires_at > v_now), 0),
					   coalesce(bool_or(b.held_amount > 0), false)
				  INTO v_bonus, v_held
				  FROM quota.user_bonuses AS b
				 WHERE b.user_id = p_user_id AND b.metric = v_metric AND b.available;
				v_common := NOT v_held;
			END IF;
			IF v_common THEN
				v_out := ROW(true, v_room + v_bonus, v_limit, 0, false, 'ok', v_metric, v_period,
							 v_used, v_bonus, 0, 0, v_start, v_end, NULL, quota.new_id(v_now),
							 p_user_id, p_amount, NULL, NULL)::quota.outcome;
				WITH charge AS (
					UPDATE quota.usage_tracking AS t
					   SET used = v_used
					 WHERE t.user_id = p_user_id AND t.metric = v_metric AND t.period = v_period
				), entry AS (
					INSERT INTO quota.usage_events (id, user_id, metric, kind, amount, bonus_used, period,
													key_hash, outcome, metadata, created_at)
					VALUES (v_out.event_id, p_user_id, v_metric, 'consume', p_amount, 0, v_period,
							v_hash, CASE WHEN v_hash IS NOT NULL THEN v_out END, p_metadata, v_now)
				)
				INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
												   plan_limit, current_usage, remaining, period, action,
												   event_id, created_at)
				VALUES (quota.new_id(v_now), p_user_id, v_metric, p_amount, true, 'ok',
						v_limit, v_used, v_out.remaining, v_period, 'consume',
						v_out.event_id, v_now);
				RETURN v_out;
			END IF;
		END IF;
	END IF;

	-- The common denial: one hard limit whose period is open and used up, no key, and
	-- nothing that could help or change.  What is committed is enough for it.
	IF v_hash IS NULL AND cardinality(v_subject.accounts) = 1 AND v_subject.parent IS NULL
	   AND v_subject.kind = 'counter' AND v_subject.valid_until IS NULL
	THEN
		a := v_subject.accounts[1];
		v_now := greatest(quota.clock(), a.period_start);
		IF a.mode = 'hard' AND a.limit_amount > 0 AND a.used + a.held + p_amount > a.limit_amount
		   AND a.period_end > v_now AND a.holds_expire_at IS NULL
		   AND NOT EXISTS (SELECT FROM quota.user_bonuses AS b
							WHERE b.user_id = p_user_id AND b.metric = v_metric AND b.available)
		THEN
			v_out := ROW(false, greatest(a.limit_amount - a.used - a.held, 0), a.limit_amount, 0, false,
						 'quota_exceeded', v_metric, a.period, a.used, 0, 0, 0, a.period_start, a.period_end,
						 CASE WHEN p_amount <= a.limit_amount
							  THEN make_interval(secs => extract(epoch FROM a.period_end - v_now)::float8) END,
						 NULL, p_user_id, 0, NULL, NULL)::quota.outcome;
			INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
											   plan_limit, current_usage, remaining, period, action, created_at)
			VALUES (quota.new_id(v_now), p_user_id, v_metric, p_amount, false, 'quota_exceeded',
					a.limit_amount, a.used, v_out.remaining, a.period, 'consume', v_now);
			RETURN v_out;
		END IF;
	END IF;

	v_out := (quota_reference.request('consume', p_user_id, ARRAY[p_metric], ARRAY[p_amount],
									  p_idempotency_key, p_metadata))[1];
	RETURN v_out;
END
$$;

CREATE FUNCTION quota_reference.require_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_out	quota.outcome;
BEGIN
	v_out := quota_reference.check_and_consume_quota(p_user_id, p_metric, p_amount, p_idempotency_key, p_metadata);
	IF NOT v_out.allowed THEN
		RAISE EXCEPTION 'quota of "%" denied: %', v_out.metric, v_out.reason
			USING ERRCODE = 'QU001',
				  DETAIL = format('%s requested, %s remaining.', p_amount, v_out.remaining);
	END IF;
	RETURN v_out;
END
$$;

CREATE FUNCTION quota_reference.check_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1)
	RETURNS quota.outcome
	LANGUAGE plpgsql STABLE
AS $$
DECLARE
	v_now		timestamptz;
	v_read		quota_reference.charge[];
	v_charges	quota_reference.charge[];
BEGIN
	PERFORM quota_reference.validate(p_user_id, p_metric, p_amount, NULL, NULL);
	p_metric := quota_reference.metric_name(p_metric);
	LOOP
		v_now := greatest(v_now, quota.clock());
		v_read := quota_reference.charges(p_user_id, ARRAY[p_metric], v_now);
		v_now := quota_reference.time_of_charges(v_read, v_now);
		v_charges := quota_reference.charges_at(v_read, v_now);
		EXIT WHEN v_charges IS NOT NULL;
	END LOOP;
	FOR i IN 1 .. cardinality(v_charges) LOOP
		v_charges[i] := quota_reference.decide_charge(v_charges[i], p_user_id, 'consume', p_amount, v_now);
	END LOOP;
	RETURN quota_reference.answer_item(v_charges, 1, p_user_id, p_amount, v_now);
END
$$;

CREATE FUNCTION quota_reference.consume_up_to(
	p_user_id uuid,
	p_metric text,
	p_amount numeric,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
	PERFORM quota_reference.validate(p_user_id, p_metric, p_amount, p_idempotency_key, p_metadata);
	RETURN (quota_reference.request('consume', p_user_id, ARRAY[p_metric], ARRAY[p_amount],
									p_idempotency_key, p_metadata, p_up_to => true))[1];
END
$$;

CREATE FUNCTION quota_reference.consume_quotas(
	p_user_id uuid,
	p_requests jsonb,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS SETOF quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_metrics	text[];
	v_amounts	numeric[];
BEGIN
	IF jsonb_typeof(p_requests) IS DISTINCT FROM 'object' OR p_requests = '{}'
	   OR (SELECT count(*) FROM jsonb_object_keys(p_requests)) > 100
	   OR EXISTS (SELECT FROM jsonb_each(p_requests) AS r WHERE jsonb_typeof(r.value) <> 'number')
	THEN
		RAISE EXCEPTION 'requests must be a JSON object of metrics and amounts' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT array_agg(r.key ORDER BY r.key COLLATE "C"), array_agg(r.value::numeric ORDER BY r.key COLLATE "C")
	  INTO v_metrics, v_amounts FROM jsonb_each_text(p_requests) AS r;
	FOR i IN 1 .. cardinality(v_metrics) LOOP
		PERFORM quota_reference.validate(p_user_id, v_metrics[i], v_amounts[i], p_idempotency_key, p_metadata);
	END LOOP;
	RETURN QUERY
	SELECT (o).* FROM unnest(quota_reference.request('consume', p_user_id, v_metrics, v_amounts,
													 p_idempotency_key, p_metadata)) AS o
	 ORDER BY o.metric COLLATE "C";
END
$$;

CREATE FUNCTION quota_reference.consume_quota_batch(
	p_user_ids uuid[],
	p_metrics text[],
	p_amounts numeric[] DEFAULT NULL,
	p_idempotency_keys text[] DEFAULT NULL)
	RETURNS SETOF quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	v_charges	quota_reference.charge[] := '{}';
BEGIN
	IF p_user_ids IS NULL OR p_metrics IS NULL OR cardinality(p_metrics) <> cardinality(p_user_ids)
	   OR cardinality(p_amounts) <> cardinality(p_user_ids) OR cardinality(p_idempotency_keys) <> cardinality(p_user_ids)
	   OR cardinality(p_user_ids) > 10000
	THEN
		RAISE EXCEPTION 'arrays of a batch differ in length, or are too long' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR i IN 1 .. cardinality(p_user_ids) LOOP
		PERFORM quota_reference.validate(p_user_ids[i], p_metrics[i],
										 CASE WHEN p_amounts IS NULL THEN 1 ELSE p_amounts[i] END, p_idempotency_keys[i], NULL);
	END LOOP;
	FOR i IN 1 .. cardinality(p_user_ids) LOOP
		p_metrics[i] := quota_reference.metric_name(p_metrics[i]);
		v_charges := v_charges || quota_reference.charges(p_user_ids[i], p_metrics[i:i], quota.clock());
	END LOOP;
	-- all accounts that exist, in the one order; then each by itself
	PERFORM quota_reference.lock_accounts(v_charges, false, '{}', '{}');
	FOR i IN 1 .. cardinality(p_user_ids) LOOP
		RETURN NEXT quota_reference.check_and_consume_quota(
			p_user_ids[i], p_metrics[i], CASE WHEN p_amounts IS NULL THEN 1 ELSE p_amounts[i] END, p_idempotency_keys[i]);
	END LOOP;
END
$$;

-- Setting aside, and giving back -------------------------------------------------

CREATE FUNCTION quota_reference.reserve_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1,
	p_ttl interval DEFAULT '5 minutes',
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
	PERFORM quota_reference.validate(p_user_id, p_metric, p_amount, p_idempotency_key, p_metadata);
	IF (p_ttl BETWEEN interval '1 second' AND interval '24 hours') IS NOT TRUE THEN
		RAISE EXCEPTION 'a reservation must hold for 1 second to 24 hours' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- elapsed time, whatever the local clock does
	RETURN (quota_reference.request('reserve', p_user_id, ARRAY[p_metric], ARRAY[p_amount], p_idempotency_key, p_metadata,
									make_interval(secs => extract(epoch FROM p_ttl)::float8)))[1];
END
$$;

CREATE FUNCTION quota_reference.settle_reservation(
	p_reservation_id uuid,
	p_actual numeric DEFAULT NULL)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
	IF p_reservation_id IS NULL OR NOT coalesce(p_actual >= 0 AND p_actual < 1e18 AND p_actual = round(p_actual, 6), true) THEN
		RAISE EXCEPTION 'not an amount' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN quota_reference.resolve_reservation(p_reservation_id, 'settle', p_actual);
END
$$;

CREATE FUNCTION quota_reference.cancel_reservation(
	p_reservation_id uuid)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
	IF p_reservation_id IS NULL THEN
		RAISE EXCEPTION 'reservation id must not be null' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN quota_reference.resolve_reservation(p_reservation_id, 'cancel', NULL);
END
$$;

CREATE FUNCTION quota_reference.refund_quota(
	p_event_id uuid,
	p_amount numeric DEFAULT NULL,
	p_reason text DEFAULT NULL)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
	IF p_event_id IS NULL OR NOT coalesce(p_amount > 0 AND p_amount < 1e18 AND p_amount = round(p_amount, 6), true)
	   OR octet_length(p_reason) > 32768
	THEN
		RAISE EXCEPTION 'not an event, an amount or a reason' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN quota_reference.refund(p_event_id, p_amount,
								  CASE WHEN p_reason IS NOT NULL THEN jsonb_build_object('reason', p_reason) END);
END
$$;

-- Gauges ---------------------------------------------------------------------------

CREATE FUNCTION quota_reference.release_quota(
	p_user_id uuid,
	p_metric text,
	p_amount numeric DEFAULT 1,
	p_idempotency_key text DEFAULT NULL,
	p_metadata jsonb DEFAULT NULL)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
	PERFORM quota_reference.validate(p_user_id, p_metric, p_amount, p_idempotency_key, p_metadata);
	RETURN (quota_reference.request('release', p_user_id, ARRAY[p_metric], ARRAY[p_amount],
									p_idempotency_key, p_metadata))[1];
END
$$;

CREATE FUNCTION quota_reference.set_gauge(
	p_user_id uuid,
	p_metric text,
	p_value numeric,
	p_reason text DEFAULT NULL)
	RETURNS quota.outcome
	LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
	PERFORM quota_reference.validate(p_user_id, p_metric, CASE WHEN p_value = 0 THEN 1 ELSE p_value END, NULL, NULL);
	RETURN (quota_reference.request('set_gauge', p_user_id, ARRAY[p_metric], ARRAY[p_value], NULL,
									CASE WHEN p_reason IS NOT NULL THEN jsonb_build_object('reason', p_reason) END))[1];
END
$$;
