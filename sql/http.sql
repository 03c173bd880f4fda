-- ---------------------------------------------------------------------------
-- For callers behind HTTP: a key for requests that bring none, and an outcome
-- as a response
-- ---------------------------------------------------------------------------

-- A key for requests that bring none -------------------------------------------

CREATE FUNCTION quota.dedupe_key(
	p_user_id uuid,
	p_metric text,
	p_fingerprint text,
	p_window interval DEFAULT '5 seconds')
	RETURNS text
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- The time of the request: read before anything is waited for, because a
	-- request that waits for its double is no later for that.
	v_now		timestamptz := quota.clock();
	v_metric	text;
	v_subject	bytea;
	v_scope		bytea;
	v_length	bigint;
	v_at		bigint;
	v_window	bigint;
	v_keys		text[];
	v_found		text;
BEGIN
	PERFORM quota.checked_user(p_user_id);
	v_metric := quota.resolve_metric(p_metric);
	IF coalesce(p_fingerprint, '') = '' THEN
		RAISE EXCEPTION 'fingerprint must not be null or empty'
			USING ERRCODE = '22023',
				HINT = 'Pass what is the same in a repeated request, such as its method, path and body.';
	END IF;
	IF p_window IS NULL OR p_window < '1 millisecond' OR p_window > '1 day' THEN
		RAISE EXCEPTION 'window must last from 1 millisecond to 1 day'
			USING ERRCODE = '22023',
				DETAIL = format('The window is %s.', coalesce(p_window::text, 'NULL')),
				HINT = 'Pass the time within which the same request counts as a repetition, such as 5 seconds.';
	END IF;

	v_length := extract(epoch FROM p_window) * 1000000;
	v_at := extract(epoch FROM v_now) * 1000000;
	v_window := (v_at - ((v_at % v_length) + v_length) % v_length) / v_length;

	-- as the ledger hashes keys: each part with its length
	v_subject := uuid_send(p_user_id)
		|| int4send(octet_length(v_metric)) || convert_to(v_metric, getdatabaseencoding());
	v_scope := v_subject || int4send(octet_length(p_fingerprint))
		|| convert_to(p_fingerprint, getdatabaseencoding()) || int8send(v_length);

	-- Requests of one fingerprint come one by one, until their transactions end:
	-- so one does not miss another beyond the edge of a window that is not
	-- committed yet.  The query below, being VOLATILE, sees what was waited for.
	PERFORM pg_advisory_xact_lock(('x' || encode(substr(sha256(v_scope), 1, 8), 'hex'))::bit(64)::bigint);

	-- the window of the request, the one before it, and the one after it, where
	-- a later request may have been faster
	SELECT array_agg(encode(sha256(v_scope || int8send(v_window + step)), 'hex') ORDER BY step DESC)
		INTO v_keys
		FROM generate_series(-1, 1) AS s (step);

	-- What has the key of this window belongs to this window, however late it was
	-- decided.  Of the others the real distance counts, from the decision.
	SELECT k.key INTO v_found
		FROM unnest(v_keys) WITH ORDINALITY AS k (key, nr)
		JOIN quota.usage_events e ON e.key_hash = sha256(v_subject
			|| int4send(octet_length(k.key)) || convert_to(k.key, getdatabaseencoding()))
		WHERE k.nr = 2 OR v_now - e.created_at < p_window
		ORDER BY k.nr = 2 DESC, k.nr
		LIMIT 1;
	RETURN coalesce(v_found, v_keys[2]);
END
$$;
COMMENT ON FUNCTION quota.dedupe_key(uuid, text, text, interval) IS
'An idempotency key for a request that brings none: the key of an equal request (subject, metric, fingerprint) charged less than p_window (1 millisecond to 1 day) ago, which the call then answers again, else a new one. Equal requests wait for each other from here to the end of the transaction, so also two at once, on both sides of an edge between windows, get one key. Not told apart or not found: two equal requests that are both meant, within p_window; one that was denied or rolled back; and, with quota.isolation = latest, one beyond an edge that committed after the snapshot of a REPEATABLE READ or SERIALIZABLE transaction (strict raises 40001 there). An equal request with another amount is an idempotency_conflict.';

-- An outcome as a response --------------------------------------------------------

CREATE FUNCTION quota.policy_name(p_metric text, p_period text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	-- A string of a structured field has printable ASCII only, so other bytes,
	-- and the sign itself, are written as in URLs.
	SELECT string_agg(
			CASE WHEN b.byte BETWEEN 32 AND 126 AND b.byte <> 37 THEN chr(b.byte)
				ELSE '%' || upper(lpad(to_hex(b.byte), 2, '0')) END, '' ORDER BY i.i)
		FROM (SELECT convert_to(p_metric || '-' || replace(p_period, ' ', '-'), getdatabaseencoding())) AS n (name)
		CROSS JOIN LATERAL generate_series(0, octet_length(n.name) - 1) AS i (i)
		CROSS JOIN LATERAL (SELECT get_byte(n.name, i.i)) AS b (byte)
$$;
COMMENT ON FUNCTION quota.policy_name(text, text) IS
'Name of a limit in HTTP responses, "metric-period", in printable ASCII';

CREATE FUNCTION quota.rate_limit_headers(p_outcome quota.outcome) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- the largest integer of a structured field
	MAX_INTEGER	CONSTANT numeric := 999999999999999;
	v_name		text;
	v_window	text := '';
	v_until		text := '';
	v_seconds	numeric;
BEGIN
	IF p_outcome.period IS NULL OR p_outcome.limit_amount IS NULL OR p_outcome.remaining IS NULL
		OR p_outcome.reason IN ('not_in_plan', 'blocked') THEN
		RETURN '{}';
	END IF;

	v_name := quota.policy_name(p_outcome.metric, p_outcome.period);
	v_name := '"' || replace(replace(v_name, '\', '\\'), '"', '\"') || '"';
	IF p_outcome.period <> 'lifetime' THEN
		v_window := ';w=' || quota.period_length(p_outcome.period) / 1000000;
	END IF;
	-- Retry-After must not come before the end of this, so it is never later
	v_seconds := least(extract(epoch FROM p_outcome.resets_at - quota.clock()),
		CASE WHEN NOT p_outcome.allowed THEN extract(epoch FROM p_outcome.retry_after) END);
	IF v_seconds IS NOT NULL THEN
		v_until := ';t=' || least(ceil(greatest(v_seconds, 0)), MAX_INTEGER);
	END IF;

	RETURN jsonb_build_object(
		'RateLimit-Policy', v_name || ';q=' || least(floor(p_outcome.limit_amount), MAX_INTEGER) || v_window,
		'RateLimit', v_name || ';r=' || least(floor(greatest(p_outcome.remaining, 0)), MAX_INTEGER) || v_until);
END
$$;
COMMENT ON FUNCTION quota.rate_limit_headers(quota.outcome) IS
'The fields RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers for the limit that binds; none where it is unlimited or there is none';

CREATE FUNCTION quota.quota_remedies(p_outcome quota.outcome) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_now		timestamptz := quota.clock();
	v_plan		text;
	v_currency	text;
	v_upgrade	jsonb;
	v_topup		boolean;
BEGIN
	IF p_outcome.binding_user_id IS NOT NULL THEN
		v_plan := quota.current_plan(p_outcome.binding_user_id);
	END IF;
	SELECT p.currency INTO v_currency FROM quota.plans p WHERE p.plan = v_plan;

	-- Another plan does not help where an override goes before it, unless that
	-- came from a change of plan: the next one sets it anew.
	IF NOT EXISTS (
		SELECT FROM quota.limit_overrides o
		WHERE o.user_id = p_outcome.binding_user_id AND o.metric = p_outcome.metric
			AND (o.period = p_outcome.period OR (o.period IS NULL AND o.limit_amount = p_outcome.limit_amount))
			AND (o.expires_at IS NULL OR o.expires_at > v_now)
			AND quota.set_by_plan_change(o) IS NOT TRUE) THEN
		SELECT jsonb_build_object('plan', p.plan, 'limit', trim_scale(l.limit_amount),
				'price', trim_scale(p.price), 'currency', p.currency) INTO v_upgrade
			FROM quota.plan_limits l
			JOIN quota.plans p ON p.plan = l.plan
			WHERE l.metric = p_outcome.metric AND l.period = p_outcome.period
				AND p.plan IS DISTINCT FROM v_plan
				AND (l.limit_amount IS NULL OR l.limit_amount > greatest(p_outcome.limit_amount, p_outcome.used))
			-- prices compare in one currency only
			ORDER BY p.currency IS DISTINCT FROM v_currency, p.price NULLS LAST, l.limit_amount NULLS LAST, p.plan
			LIMIT 1;
	END IF;

	-- what is bought extends the allowance, the longest window, alone
	v_topup := EXISTS (SELECT FROM quota.topup_prices t WHERE t.plan = v_plan AND t.metric = p_outcome.metric)
		AND NOT EXISTS (
			SELECT FROM quota.plan_limits l
			WHERE l.plan = v_plan AND l.metric = p_outcome.metric
				AND quota.period_length(l.period) > quota.period_length(p_outcome.period));

	RETURN jsonb_build_object('upgrade', v_upgrade, 'topup', v_topup);
END
$$;
COMMENT ON FUNCTION quota.quota_remedies(quota.outcome) IS
'What would help a denied caller: upgrade, the cheapest plan (first of those in the present plan''s currency) that has more of the metric in the same period than its limit and what is used, or null; topup, whether units are for sale that would count';

CREATE FUNCTION quota.http_response(
	p_outcome quota.outcome,
	OUT status integer,
	OUT headers jsonb,
	OUT body jsonb)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	DAY			CONSTANT bigint := 86400000000;
	v_lack		boolean;
	v_seconds	bigint;
BEGIN
	IF p_outcome.allowed IS NULL THEN
		RAISE EXCEPTION 'outcome must not be null'
			USING ERRCODE = '22023',
				HINT = 'Pass the row that a call returned: http_response(check_and_consume_quota(...)).';
	END IF;

	headers := quota.rate_limit_headers(p_outcome);
	body := jsonb_build_object(
		'allowed', p_outcome.allowed,
		'reason', p_outcome.reason,
		'metric', p_outcome.metric,
		'period', p_outcome.period,
		'limit', trim_scale(p_outcome.limit_amount),
		'used', trim_scale(p_outcome.used),
		'remaining', trim_scale(p_outcome.remaining),
		'resets_at', p_outcome.resets_at);

	IF p_outcome.allowed THEN
		status := 200;
		headers := headers || '{"Content-Type": "application/json"}';
		body := body || jsonb_build_object(
				'granted', trim_scale(p_outcome.granted),
				'bonus_used', trim_scale(p_outcome.bonus_used),
				'overage', trim_scale(p_outcome.overage),
				'cost', trim_scale(p_outcome.cost),
				'already_processed', p_outcome.already_processed)
			|| jsonb_strip_nulls(jsonb_build_object(
				'event_id', p_outcome.event_id,
				'reservation_id', p_outcome.reservation_id,
				'shortfall', trim_scale(p_outcome.shortfall)));
		RETURN;
	END IF;

	status := CASE p_outcome.reason
		WHEN 'not_in_plan' THEN 403
		WHEN 'blocked' THEN 403
		WHEN 'idempotency_conflict' THEN 422
		WHEN 'reservation_expired' THEN 409
	END;
	v_lack := status IS NULL;
	IF v_lack THEN
		status := coalesce(
			(SELECT m.http_status FROM quota.metrics m WHERE m.metric = p_outcome.metric),
			CASE WHEN p_outcome.reason IS DISTINCT FROM 'spend_cap' AND quota.period_length(p_outcome.period) <= DAY
				THEN 429 ELSE 402 END);
	END IF;

	v_seconds := greatest(ceil(extract(epoch FROM p_outcome.retry_after)), 1);
	IF p_outcome.retry_after IS NULL THEN
		v_seconds := NULL;
	ELSIF status IN (429, 503) THEN
		headers := headers || jsonb_build_object('Retry-After', v_seconds::text);
	END IF;
	headers := headers || '{"Content-Type": "application/problem+json"}';

	-- a problem of RFC 9457; its type for quotas is that of the draft
	body := body || jsonb_build_object(
		'type', CASE WHEN v_lack THEN 'https://iana.org/assignments/http-problem-types#quota-exceeded' ELSE 'about:blank' END,
		'title', CASE
			WHEN v_lack THEN 'Request cannot be satisfied as assigned quota has been exceeded'
			WHEN status = 403 THEN 'Forbidden'
			WHEN status = 409 THEN 'Conflict'
			ELSE 'Unprocessable Content' END,
		'status', status,
		'detail', CASE p_outcome.reason
			WHEN 'not_in_plan' THEN format('The plan does not include "%s".', p_outcome.metric)
			WHEN 'blocked' THEN 'The account is blocked.'
			WHEN 'idempotency_conflict' THEN 'The idempotency key was used before for another request.'
			WHEN 'reservation_expired' THEN 'The reservation has expired.'
			WHEN 'spend_cap' THEN format('More of "%s" would cost more than the spend cap allows.', p_outcome.metric)
			WHEN 'other_denied' THEN format('There is enough of "%s", but not of everything that was asked for with it.', p_outcome.metric)
			ELSE coalesce(
				format('Not enough of "%s": %s left, the limit is ', p_outcome.metric, trim_scale(p_outcome.remaining))
					|| trim_scale(p_outcome.limit_amount)
					|| CASE WHEN p_outcome.period = 'lifetime' THEN ' in all.' ELSE ' per ' || p_outcome.period || '.' END,
				format('Not enough of "%s".', p_outcome.metric)) END,
		'retry_after', v_seconds);
	IF v_lack AND p_outcome.reason IS DISTINCT FROM 'other_denied' THEN
		body := body || quota.quota_remedies(p_outcome);
		IF p_outcome.period IS NOT NULL THEN
			body := body || jsonb_build_object('violated-policies',
				jsonb_build_array(quota.policy_name(p_outcome.metric, p_outcome.period)));
		END IF;
	END IF;
END
$$;
COMMENT ON FUNCTION quota.http_response(quota.outcome) IS
'An outcome as status, header fields and JSON body: 200; for lack of quota 429 with Retry-After where the period lasts up to a day, else, and at a spend cap, 402 with what would help (metrics.http_status goes before both); 403 not in the plan or blocked; 422 a key used for another request; 409 a reservation that has expired; RateLimit-Policy and RateLimit tell the limit that binds';
