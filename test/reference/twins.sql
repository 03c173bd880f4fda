-- ---------------------------------------------------------------------------
-- For test/sql/oracle.sql: the plans, the twins, and how twins are compared
--
-- A twin has the same number on both sides.  oracle.latest is the latest time that
-- the clock has shown.
-- ---------------------------------------------------------------------------

-- What can be limited ---------------------------------------------------------

INSERT INTO quota.metrics (metric, kind) VALUES
	('oracle_calls', 'counter'), ('oracle_tokens', 'counter'), ('oracle_seats', 'gauge'),
	('oracle_sso', 'feature'), ('oracle_other', 'counter');
INSERT INTO quota.metric_aliases (alias, metric) VALUES ('oracle_call', 'oracle_calls');
INSERT INTO quota.plans (plan) VALUES
	('oracle_small'), ('oracle_wide'), ('oracle_equal'), ('oracle_odd'), ('oracle_open'), ('oracle_empty'),
	('oracle_soft'), ('oracle_shadow'), ('oracle_team');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	-- one window each
	('oracle_small', 'oracle_calls', 'month', 20, 'calendar'),
	('oracle_small', 'oracle_tokens', 'day', 10.5, 'subscription'),
	('oracle_small', 'oracle_seats', 'month', 5, 'calendar'),
	('oracle_small', 'oracle_other', 'week', 0, 'calendar'),
	-- several windows, all three anchors
	('oracle_wide', 'oracle_calls', 'minute', 4, 'calendar'),
	('oracle_wide', 'oracle_calls', 'day', 12, 'subscription'),
	('oracle_wide', 'oracle_calls', 'month', 40, 'first_use'),
	('oracle_wide', 'oracle_tokens', '5 minutes', 6.25, 'first_use'),
	('oracle_wide', 'oracle_tokens', 'lifetime', 400, 'calendar'),
	('oracle_wide', 'oracle_seats', 'lifetime', 8, 'calendar'),
	('oracle_wide', 'oracle_seats', 'day', 6, 'first_use'),
	('oracle_wide', 'oracle_sso', 'lifetime', NULL, 'calendar'),
	('oracle_wide', 'oracle_other', 'month', 0, 'subscription'),
	('oracle_wide', 'oracle_other', 'hour', 5, 'calendar'),
	-- windows of equal length
	('oracle_equal', 'oracle_calls', 'year', 50, 'subscription'),
	('oracle_equal', 'oracle_calls', '12 months', 50, 'calendar'),
	('oracle_equal', 'oracle_tokens', 'week', 25, 'calendar'),
	('oracle_equal', 'oracle_tokens', '7 days', 20, 'subscription'),
	('oracle_equal', 'oracle_other', 'quarter', 15, 'subscription'),
	('oracle_equal', 'oracle_other', '3 months', 12, 'first_use'),
	-- multiples
	('oracle_odd', 'oracle_calls', '2 days', 9, 'calendar'),
	('oracle_odd', 'oracle_calls', '36 hours', 9, 'subscription'),
	('oracle_odd', 'oracle_tokens', '2 weeks', 30, 'subscription'),
	('oracle_odd', 'oracle_tokens', '90 minutes', 8, 'calendar'),
	('oracle_odd', 'oracle_seats', 'year', 3, 'subscription'),
	('oracle_odd', 'oracle_sso', 'month', 1, 'calendar'),
	-- unlimited, alone and above rate windows
	('oracle_open', 'oracle_calls', 'month', NULL, 'calendar'),
	('oracle_open', 'oracle_tokens', 'month', NULL, 'subscription'),
	('oracle_open', 'oracle_tokens', 'hour', 7, 'first_use'),
	('oracle_open', 'oracle_seats', 'lifetime', NULL, 'calendar'),
	('oracle_open', 'oracle_other', 'day', 6, 'calendar'),
	('oracle_open', 'oracle_other', 'minute', NULL, 'calendar');

-- limits that cost, and limits that only tell
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor, mode, overage_price, spend_cap) VALUES
	('oracle_soft', 'oracle_calls', 'month', 15, 'calendar', 'soft', 0.75, 9.5),
	('oracle_soft', 'oracle_calls', 'hour', 6, 'calendar', 'soft', NULL, NULL),
	('oracle_soft', 'oracle_tokens', 'day', 8.5, 'subscription', 'soft', 0.333333333333, NULL),
	('oracle_soft', 'oracle_tokens', 'minute', 7, 'first_use', 'hard', NULL, NULL),
	('oracle_soft', 'oracle_seats', 'lifetime', 4, 'calendar', 'soft', 12, 60),
	('oracle_soft', 'oracle_other', 'month', 0, 'calendar', 'soft', 1, 5),
	('oracle_shadow', 'oracle_calls', 'month', 12, 'first_use', 'shadow', NULL, NULL),
	('oracle_shadow', 'oracle_calls', 'minute', 3, 'calendar', 'shadow', NULL, NULL),
	('oracle_shadow', 'oracle_tokens', 'month', 9, 'subscription', 'soft', 0.1, 1),
	('oracle_shadow', 'oracle_tokens', 'hour', 4, 'calendar', 'shadow', NULL, NULL),
	('oracle_shadow', 'oracle_seats', 'lifetime', 3, 'calendar', 'shadow', NULL, NULL),
	('oracle_shadow', 'oracle_other', 'day', 4, 'calendar', 'shadow', NULL, NULL),
	('oracle_shadow', 'oracle_other', 'hour', 5, 'calendar', 'hard', NULL, NULL),
	('oracle_team', 'oracle_calls', 'month', 60, 'calendar', 'hard', NULL, NULL),
	('oracle_team', 'oracle_calls', 'hour', 12, 'calendar', 'hard', NULL, NULL),
	('oracle_team', 'oracle_tokens', 'week', 40, 'subscription', 'soft', 0.25, 4),
	('oracle_team', 'oracle_seats', 'lifetime', 12, 'calendar', 'hard', NULL, NULL);

-- Twins: anchors and zones that clocks are changed in, at month ends and on a
-- leap day; two pairs begin without a subscription; three are above others.
CREATE TEMP TABLE twins (
	nr			integer PRIMARY KEY,
	engine		uuid NOT NULL,
	reference	uuid NOT NULL,
	plan		text,
	anchor		timestamptz,
	time_zone	text,
	parent		integer
);
INSERT INTO twins
SELECT v.nr, overlay('0a000000-0000-4000-8000-000000000000' PLACING lpad(v.nr::text, 4, '0') FROM 33)::uuid,
	   overlay('0b000000-0000-4000-8000-000000000000' PLACING lpad(v.nr::text, 4, '0') FROM 33)::uuid,
	   v.plan, v.anchor, v.time_zone, v.parent
  FROM (VALUES
	(1, 'oracle_small', timestamptz '2010-10-31 22:10:00+00', 'UTC', 10),
	(2, 'oracle_wide', '2008-02-29 12:00:00+00', 'America/New_York', NULL),
	(3, 'oracle_soft', '2010-12-31 05:00:00+00', 'America/Havana', NULL),
	(4, 'oracle_odd', '2010-08-30 10:00:00+00', 'Pacific/Apia', 12),
	(5, 'oracle_open', '2011-01-30 18:15:00+00', 'Asia/Kathmandu', 11),
	(6, 'oracle_shadow', '2010-11-07 06:30:00+00', 'America/New_York', NULL),
	(7, 'oracle_equal', '2010-03-31 01:00:00+00', 'Europe/London', 10),
	(8, NULL, NULL, NULL, NULL),
	(9, NULL, NULL, NULL, NULL),
	(10, 'oracle_team', '2010-12-05 00:00:00+00', 'UTC', 12),
	(11, 'oracle_soft', '2010-11-30 00:00:00+00', 'Asia/Kathmandu', 12),
	(12, 'oracle_wide', '2010-05-31 00:00:00+00', 'UTC', NULL)) AS v (nr, plan, anchor, time_zone, parent);
INSERT INTO quota.subscriptions (user_id, plan, anchor, time_zone, created_at, updated_at)
SELECT u, plan, anchor, time_zone, anchor, anchor
  FROM twins, unnest(ARRAY[engine, reference]) AS u
 WHERE plan IS NOT NULL;
UPDATE quota.subscriptions AS s SET parent = CASE s.user_id WHEN w.engine THEN p.engine ELSE p.reference END
  FROM twins AS w JOIN twins AS p ON p.nr = w.parent
 WHERE s.user_id IN (w.engine, w.reference);

-- Instants at which local clocks change (Apia leaves out a whole day)
CREATE TEMP TABLE instants (at timestamptz PRIMARY KEY);
INSERT INTO instants VALUES
	('2011-02-28 23:59:30+00'), ('2011-03-13 07:00+00'), ('2011-03-20 05:00+00'), ('2011-03-27 01:00+00'),
	('2011-04-02 14:00+00'), ('2011-09-24 14:00+00'), ('2011-10-30 01:00+00'), ('2011-11-06 06:00+00'),
	('2011-11-13 05:00+00'), ('2011-12-30 10:00+00'), ('2012-02-29 12:00+00'), ('2012-03-11 07:00+00'),
	('2012-04-01 05:00+00'), ('2012-11-04 05:00+00'), ('2012-11-04 06:00+00'), ('2013-02-28 12:00+00'),
	('2013-03-10 05:00+00'), ('2013-03-10 07:00+00'), ('2013-11-03 05:00+00'), ('2013-11-03 06:00+00');

-- How to compare ----------------------------------------------------------------

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
-- that has ended.  Only those that end after p_since.  How long one need not look for lapsed holds is a bound, and up
-- to each side.
CREATE FUNCTION pg_temp.periods(p_user uuid, p_since timestamptz) RETURNS SETOF jsonb
	LANGUAGE sql STABLE
AS $$
	SELECT to_jsonb(x)
	  FROM (SELECT p.metric, p.period, p.period_start, p.period_end, p.used, p.bonus_used, p.overage, p.cost,
				   p.held - l.held AS held, p.held_cost - l.cost AS held_cost,
				   CASE WHEN p.period_end > current_setting('oracle.latest')::timestamptz THEN p.anchor END AS anchor
			  FROM (SELECT metric, period, period_start, period_end, used, bonus_used, overage, cost, held, held_cost, anchor
					  FROM quota.usage_tracking WHERE user_id = p_user AND (period_end > p_since) IS NOT FALSE
					UNION ALL
					SELECT metric, period, period_start, period_end, used, bonus_used, overage, cost, held, held_cost, NULL
					  FROM quota.usage_history WHERE user_id = p_user AND period_end > p_since) AS p
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
	SELECT 'periods', x FROM pg_temp.periods(p_user, '-infinity') AS x
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
								 'answer', CASE WHEN NOT e.outcome IS NULL THEN pg_temp.comparable(e.outcome) END,
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
