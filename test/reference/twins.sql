-- ---------------------------------------------------------------------------
-- For test/sql/oracle.sql: how twins are asked, and how they are compared
--
-- Needs the temporary table twins (nr, engine, reference).
-- ---------------------------------------------------------------------------

-- The number of a subject, the same for both twins
CREATE FUNCTION pg_temp.nr(p_user uuid) RETURNS integer
	LANGUAGE sql STABLE
AS $$
	SELECT nr FROM twins WHERE p_user IN (engine, reference)
$$;

-- All of an answer but the ids, which are compared in being there.  Without a limit
-- nobody promises what bonuses are told.
CREATE FUNCTION pg_temp.comparable(p_answer quota.outcome) RETURNS jsonb
	LANGUAGE sql STABLE
AS $$
	SELECT to_jsonb(p_answer)
		   || jsonb_build_object('event_id', (p_answer).event_id IS NOT NULL,
								 'reservation_id', (p_answer).reservation_id IS NOT NULL,
								 'is_own_reservation', (p_answer).reservation_id = (p_answer).event_id,
								 'binding_user_id', pg_temp.nr((p_answer).binding_user_id),
								 'bonus_remaining', CASE WHEN (p_answer).period IS NOT NULL THEN (p_answer).bonus_remaining END)
$$;

CREATE FUNCTION pg_temp.comparable(p_answers quota.outcome[]) RETURNS jsonb
	LANGUAGE sql STABLE
AS $$
	SELECT jsonb_agg(pg_temp.comparable(a) ORDER BY n)
	  FROM generate_subscripts(p_answers, 1) AS n, LATERAL (SELECT (p_answers[n]).*) AS a
$$;

CREATE FUNCTION pg_temp.count(p_what text) RETURNS void
	LANGUAGE sql
AS $$
	INSERT INTO tally VALUES (p_what, 1) ON CONFLICT (what) DO UPDATE SET times = tally.times + 1
$$;

-- One call of one side; an error is an answer too
CREATE FUNCTION pg_temp.ask(
	p_schema text, p_call text, p_users uuid[], p_metrics text[], p_amounts numeric[], p_key text,
	p_ttl interval, p_id uuid, p_metadata jsonb,
	OUT answers quota.outcome[], OUT error text)
	LANGUAGE plpgsql
AS $$
BEGIN
	EXECUTE format('SELECT array_agg(o) FROM %I.', p_schema) || CASE p_call
		WHEN 'consume' THEN 'check_and_consume_quota($1[1], $2[1], $3[1], $4, $7)'
		WHEN 'require' THEN 'require_quota($1[1], $2[1], $3[1], $4, $7)'
		WHEN 'check' THEN 'check_quota($1[1], $2[1], $3[1])'
		WHEN 'up_to' THEN 'consume_up_to($1[1], $2[1], $3[1], $4, $7)'
		WHEN 'several' THEN 'consume_quotas($1[1], (SELECT jsonb_object_agg(m, $3[n]) FROM unnest($2) WITH ORDINALITY AS x (m, n)), $4, $7)'
		WHEN 'batch' THEN 'consume_quota_batch($1, $2, $3, ARRAY(SELECT $4 || n FROM generate_subscripts($1, 1) AS n))'
		WHEN 'reserve' THEN 'reserve_quota($1[1], $2[1], $3[1], $5, $4, $7)'
		WHEN 'settle' THEN 'settle_reservation($6, $3[1])'
		WHEN 'cancel' THEN 'cancel_reservation($6)'
		WHEN 'refund' THEN 'refund_quota($6, $3[1], $7 ->> ''step'')'
		WHEN 'release' THEN 'release_quota($1[1], $2[1], $3[1], $4, $7)'
		WHEN 'set_gauge' THEN 'set_gauge($1[1], $2[1], $3[1], $7 ->> ''step'')'
		END || ' AS o'
	   INTO answers
	  USING p_users, p_metrics, p_amounts, p_key, p_ttl, p_id, p_metadata;
EXCEPTION WHEN OTHERS THEN
	-- a fault of the engine must not look like a refusal of the request
	IF SQLSTATE NOT LIKE 'QU%' AND SQLSTATE <> '22023' THEN
		RAISE;
	END IF;
	error := SQLSTATE;
END
$$;

-- What an event is, without ids
CREATE FUNCTION pg_temp.named(p_event_id uuid) RETURNS jsonb
	LANGUAGE sql STABLE
AS $$
	SELECT jsonb_build_object('nr', pg_temp.nr(e.user_id), 'kind', e.kind, 'amount', e.amount, 'held', e.held,
							  'at', e.created_at, 'step', e.metadata -> 'step')
	  FROM quota.usage_events AS e WHERE e.id = p_event_id
$$;

-- Reservations that nothing has ended, although they have expired by the latest
-- time there was.  Each side may write that down when it comes across it.
CREATE FUNCTION pg_temp.lapsed(p_user uuid) RETURNS SETOF quota.usage_events
	LANGUAGE sql STABLE
AS $$
	SELECT e.* FROM quota.usage_events AS e
	 WHERE e.user_id = p_user
	   AND e.expires_at <= current_setting('oracle.latest')::timestamptz
	   AND NOT EXISTS (SELECT FROM quota.usage_events AS r
						WHERE r.refers_to = e.id AND r.kind IN ('settle', 'cancel', 'expire'))
$$;

-- What each period of each account of one subject holds, the current one and closed
-- ones alike: a call that moves nothing in an account may leave it in a period
-- that has ended.  How long one need not look for lapsed holds is a bound, and up
-- to each side.
CREATE FUNCTION pg_temp.periods(p_user uuid) RETURNS SETOF jsonb
	LANGUAGE sql STABLE
AS $$
	SELECT to_jsonb(x)
	  FROM (SELECT p.metric, p.period, p.period_start, p.period_end, p.used, p.bonus_used, p.overage, p.cost,
				   p.held - l.held AS held, p.held_cost - l.cost AS held_cost,
				   CASE WHEN p.period_end > current_setting('oracle.latest')::timestamptz THEN p.anchor END AS anchor
			  FROM (SELECT metric, period, period_start, period_end, used, bonus_used, overage, cost, held, held_cost, anchor
					  FROM quota.usage_tracking WHERE user_id = p_user
					UNION ALL
					SELECT metric, period, period_start, period_end, used, bonus_used, overage, cost, held, held_cost, NULL
					  FROM quota.usage_history WHERE user_id = p_user) AS p
			  CROSS JOIN LATERAL (
					SELECT coalesce(sum(CASE WHEN e.period = p.period
											 THEN e.held - coalesce(e.held_bonus, 0) - coalesce(e.held_overage, 0)
											 ELSE e.held END), 0),
						   coalesce(sum(e.held_cost) FILTER (WHERE e.period = p.period), 0)
					  FROM pg_temp.lapsed(p_user) AS e
					 WHERE (p.held <> 0 OR p.held_cost <> 0) AND e.metric = p.metric
					   AND e.created_at >= p.period_start AND (e.created_at < p.period_end) IS NOT FALSE
					   AND (e.period = p.period OR p.period = ANY (e.rate_periods))) AS l (held, cost)) AS x
	 WHERE (x.used, x.bonus_used, x.overage, x.cost, x.held, x.held_cost) <> (0, 0, 0, 0, 0, 0)
$$;

-- Every row of one subject, without ids
CREATE FUNCTION pg_temp.traces(p_user uuid) RETURNS TABLE (relation text, trace jsonb)
	LANGUAGE sql STABLE
AS $$
	SELECT 'periods', x FROM pg_temp.periods(p_user) AS x
	UNION ALL
	SELECT 'user_bonuses',
		   to_jsonb(b) - ARRAY['id', 'user_id']
		   || jsonb_build_object('held_amount', b.held_amount - coalesce((
				SELECT sum(a.held) FROM pg_temp.lapsed(p_user) AS e
				  JOIN quota.bonus_allocations AS a ON a.event_id = e.id AND a.bonus_id = b.id
				 WHERE b.held_amount <> 0), 0))
	  FROM quota.user_bonuses AS b WHERE b.user_id = p_user
	UNION ALL
	SELECT 'usage_events',
		   to_jsonb(e) - ARRAY['id', 'user_id', 'key_hash', 'outcome', 'refers_to']
		   || jsonb_build_object('keyed', e.key_hash IS NOT NULL,
								 'refers_to', pg_temp.named(e.refers_to),
								 'answer', CASE WHEN e.outcome IS NOT NULL THEN pg_temp.comparable(e.outcome) END,
								 'is_in_answer', (e.outcome).event_id = e.id)
	  FROM quota.usage_events AS e WHERE e.user_id = p_user AND e.kind <> 'expire'
	UNION ALL
	SELECT 'bonus_allocations',
		   to_jsonb(a) - ARRAY['event_id', 'bonus_id']
		   -- the order matters in what can be refunded
		   - CASE WHEN e.kind IN ('consume', 'reserve', 'settle') THEN '' ELSE 'ordinal' END
		   || jsonb_build_object('at', e.created_at, 'kind', e.kind, 'of', e.amount, 'granted_at', b.granted_at)
	  FROM quota.bonus_allocations AS a
	  JOIN quota.usage_events AS e ON e.id = a.event_id
	  JOIN quota.user_bonuses AS b ON b.id = a.bonus_id
	 WHERE e.user_id = p_user AND e.kind <> 'expire'
	UNION ALL
	-- "waited" is for the engine only
	SELECT 'quota_audit_log',
		   to_jsonb(l) - ARRAY['id', 'user_id', 'event_id', 'waited']
		   || jsonb_build_object('event', pg_temp.named(l.event_id))
	  FROM quota.quota_audit_log AS l
	 WHERE l.user_id = p_user
$$;

-- Subjects and all above them
CREATE FUNCTION pg_temp.family(p_nr integer) RETURNS SETOF twins
	LANGUAGE sql STABLE
AS $$
	WITH RECURSIVE chain AS (
		SELECT w.engine AS user_id FROM twins AS w WHERE w.nr = p_nr
		UNION
		SELECT s.parent FROM chain AS c JOIN quota.subscriptions AS s ON s.user_id = c.user_id WHERE s.parent IS NOT NULL
	)
	SELECT w.* FROM chain AS c JOIN twins AS w ON w.engine = c.user_id
$$;

CREATE FUNCTION pg_temp.differences(p_engine uuid, p_reference uuid)
	RETURNS TABLE (side text, relation text, trace jsonb)
	LANGUAGE sql STABLE
AS $$
	SELECT CASE WHEN sum(x.n) > 0 THEN 'engine' ELSE 'reference' END, x.relation, x.trace
	  FROM (SELECT 1 AS n, e.* FROM pg_temp.traces(p_engine) AS e
			UNION ALL
			SELECT -1, r.* FROM pg_temp.traces(p_reference) AS r) AS x
	 GROUP BY x.relation, x.trace
	HAVING sum(x.n) <> 0
$$;
