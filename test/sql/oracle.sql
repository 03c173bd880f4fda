-- ---------------------------------------------------------------------------
-- The C code against the PL/pgSQL reference
--
-- Twins that differ in nothing but their uuid live through the same random
-- life: plans, limits, overrides, bonuses and the clock change for both alike,
-- the same requests go to quota.* for one and to quota_reference.* for the
-- other, and every answer and every row they leave must be the same.
-- ---------------------------------------------------------------------------

\set ON_ERROR_STOP on
SET client_min_messages = warning;
SET datestyle = 'ISO';
SET timezone = 'UTC';
SELECT to_regnamespace('quota_reference') IS NULL AS load_reference \gset
\if :load_reference
	\getenv srcdir PG_ABS_SRCDIR
	\set reference :srcdir /reference/reference.sql
	\set ECHO none
	\i :reference
	\set ECHO all
\endif

-- What can be limited ---------------------------------------------------------

INSERT INTO quota.metrics (metric, kind) VALUES
	('oracle_calls', 'counter'), ('oracle_tokens', 'counter'), ('oracle_seats', 'gauge'),
	('oracle_sso', 'feature'), ('oracle_other', 'counter');
INSERT INTO quota.metric_aliases (alias, metric) VALUES ('oracle_call', 'oracle_calls');
INSERT INTO quota.plans (plan) VALUES
	('oracle_small'), ('oracle_wide'), ('oracle_equal'), ('oracle_odd'), ('oracle_open'), ('oracle_empty');
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

-- Twins: anchors and zones that clocks are changed in, at month ends and on a
-- leap day; two pairs begin without a subscription.
CREATE TEMP TABLE twins (
	nr			integer PRIMARY KEY,
	engine		uuid NOT NULL,
	reference	uuid NOT NULL,
	plan		text,
	anchor		timestamptz,
	time_zone	text
);
INSERT INTO twins
SELECT v.nr, overlay('0a000000-0000-4000-8000-000000000000' PLACING lpad(v.nr::text, 4, '0') FROM 33)::uuid,
	   overlay('0b000000-0000-4000-8000-000000000000' PLACING lpad(v.nr::text, 4, '0') FROM 33)::uuid,
	   v.plan, v.anchor, v.time_zone
  FROM (VALUES
	(1, 'oracle_small', timestamptz '2010-10-31 22:10:00+00', 'UTC'),
	(2, 'oracle_wide', '2008-02-29 12:00:00+00', 'America/New_York'),
	(3, 'oracle_equal', '2010-12-31 05:00:00+00', 'America/Havana'),
	(4, 'oracle_odd', '2010-08-30 10:00:00+00', 'Pacific/Apia'),
	(5, 'oracle_open', '2011-01-30 18:15:00+00', 'Asia/Kathmandu'),
	(6, 'oracle_wide', '2010-11-07 06:30:00+00', 'America/New_York'),
	(7, 'oracle_small', '2010-03-31 01:00:00+00', 'Europe/London'),
	(8, NULL, NULL, NULL),
	(9, NULL, NULL, NULL)) AS v (nr, plan, anchor, time_zone);
INSERT INTO quota.subscriptions (user_id, plan, anchor, time_zone, created_at, updated_at)
SELECT u, plan, anchor, time_zone, anchor, anchor
  FROM twins, unnest(ARRAY[engine, reference]) AS u
 WHERE plan IS NOT NULL;

-- Instants at which local clocks change (Apia leaves out a whole day)
CREATE TEMP TABLE instants (at timestamptz PRIMARY KEY);
INSERT INTO instants VALUES
	('2011-02-28 23:59:30+00'), ('2011-03-13 07:00+00'), ('2011-03-20 05:00+00'), ('2011-03-27 01:00+00'),
	('2011-04-02 14:00+00'), ('2011-09-24 14:00+00'), ('2011-10-30 01:00+00'), ('2011-11-06 06:00+00'),
	('2011-11-13 05:00+00'), ('2011-12-30 10:00+00'), ('2012-02-29 12:00+00'), ('2012-03-11 07:00+00'),
	('2012-04-01 05:00+00'), ('2012-11-04 05:00+00'), ('2012-11-04 06:00+00'), ('2013-02-28 12:00+00'),
	('2013-03-10 05:00+00'), ('2013-03-10 07:00+00'), ('2013-11-03 05:00+00'), ('2013-11-03 06:00+00');

CREATE TEMP TABLE tally (what text PRIMARY KEY, times bigint NOT NULL);

-- How to compare ----------------------------------------------------------------

-- All of an answer but the id, which is compared in being there
CREATE FUNCTION pg_temp.comparable(p_answer quota.outcome) RETURNS jsonb
	LANGUAGE sql STABLE
AS $$
	SELECT to_jsonb(p_answer) || jsonb_build_object('event_id', (p_answer).event_id IS NOT NULL,
													'binding_user_id', (p_answer).binding_user_id IS NOT NULL)
$$;

CREATE FUNCTION pg_temp.count(p_what text) RETURNS void
	LANGUAGE sql
AS $$
	INSERT INTO tally VALUES (p_what, 1) ON CONFLICT (what) DO UPDATE SET times = tally.times + 1
$$;

-- One request; an error is an answer too
CREATE FUNCTION pg_temp.ask(p_schema text, p_op text, p_user uuid, p_metric text, p_amount numeric, p_key text,
							p_metadata jsonb, OUT answer quota.outcome, OUT error text)
	LANGUAGE plpgsql
AS $$
BEGIN
	CASE p_schema || '.' || p_op
		WHEN 'quota.consume' THEN
			answer := quota.check_and_consume_quota(p_user, p_metric, p_amount, p_key, p_metadata);
		WHEN 'quota_reference.consume' THEN
			answer := quota_reference.check_and_consume_quota(p_user, p_metric, p_amount, p_key, p_metadata);
		WHEN 'quota.require' THEN
			answer := quota.require_quota(p_user, p_metric, p_amount, p_key, p_metadata);
		WHEN 'quota_reference.require' THEN
			answer := quota_reference.require_quota(p_user, p_metric, p_amount, p_key, p_metadata);
		WHEN 'quota.check' THEN
			answer := quota.check_quota(p_user, p_metric, p_amount);
		WHEN 'quota_reference.check' THEN
			answer := quota_reference.check_quota(p_user, p_metric, p_amount);
	END CASE;
EXCEPTION WHEN OTHERS THEN
	-- a fault of the engine must not look like a refusal of the request
	IF SQLSTATE NOT LIKE 'QU%' AND SQLSTATE <> '22023' THEN
		RAISE;
	END IF;
	error := SQLSTATE;
END
$$;

-- Every row of one subject, without ids
CREATE FUNCTION pg_temp.traces(p_user uuid) RETURNS TABLE (relation text, trace jsonb)
	LANGUAGE sql STABLE
AS $$
	SELECT 'usage_tracking', to_jsonb(t) - 'user_id' FROM quota.usage_tracking AS t WHERE t.user_id = p_user
	UNION ALL
	SELECT 'usage_history', to_jsonb(h) - ARRAY['id', 'user_id'] FROM quota.usage_history AS h WHERE h.user_id = p_user
	UNION ALL
	SELECT 'user_bonuses', to_jsonb(b) - ARRAY['id', 'user_id'] FROM quota.user_bonuses AS b WHERE b.user_id = p_user
	UNION ALL
	SELECT 'usage_events',
		   to_jsonb(e) - ARRAY['id', 'user_id', 'key_hash', 'outcome']
		   || jsonb_build_object('keyed', e.key_hash IS NOT NULL,
								 'answer', CASE WHEN e.outcome IS NOT NULL THEN pg_temp.comparable(e.outcome) END,
								 'is_in_answer', (e.outcome).event_id = e.id)
	  FROM quota.usage_events AS e WHERE e.user_id = p_user
	UNION ALL
	SELECT 'bonus_allocations',
		   jsonb_build_object('at', e.created_at, 'asked', e.amount, 'taken', a.amount, 'granted_at', b.granted_at)
	  FROM quota.bonus_allocations AS a
	  JOIN quota.usage_events AS e ON e.id = a.event_id
	  JOIN quota.user_bonuses AS b ON b.id = a.bonus_id
	 WHERE e.user_id = p_user
	UNION ALL
	-- "waited" is for the engine only
	SELECT 'quota_audit_log',
		   to_jsonb(l) - ARRAY['id', 'user_id', 'event_id', 'waited']
		   || jsonb_build_object('has_event', l.event_id IS NOT NULL, 'event_at', e.created_at)
	  FROM quota.quota_audit_log AS l
	  LEFT JOIN quota.usage_events AS e ON e.id = l.event_id
	 WHERE l.user_id = p_user
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

-- The walk -----------------------------------------------------------------------

-- Other seeds and lengths: PGOPTIONS='-c oracle.seed=0.7 -c oracle.steps=100000'
DO $walk$
DECLARE
	v_seed		float8 := coalesce(nullif(current_setting('oracle.seed', true), ''), '0.42');
	v_steps		integer := coalesce(nullif(current_setting('oracle.steps', true), ''), '4000');
	v_metrics	text[] := ARRAY['oracle_calls', 'oracle_tokens', 'oracle_seats', 'oracle_sso', 'oracle_other'];
	v_plans		text[] := ARRAY['oracle_small', 'oracle_wide', 'oracle_equal', 'oracle_odd', 'oracle_open', 'oracle_empty'];
	v_periods	text[] := ARRAY[NULL, NULL, NULL, 'month', 'day', 'hour', 'lifetime'];
	v_amounts	numeric[] := ARRAY[1, 1, 1, 2, 2, 3, 0.2, 0.000001, 2.50, 7, 14];
	v_faults	numeric[] := ARRAY[NULL, 0, -1, 'NaN', 'Infinity', '-Infinity', 0.0000001, 1e18, 1e30, 1.0000000];
	v_clock		timestamptz := '2010-12-25 09:00:00+00';
	v_next		timestamptz;
	v_sharp		boolean;
	v_nr		integer;
	t			twins;
	v_dice		float8;
	v_op		text;
	v_metric	text;
	v_amount	numeric;
	v_key		text;
	v_limit		numeric;
	v_period	text;
	v_until		timestamptz;
	v_priority	integer;
	v_source	text;
	v_plan		text;
	v_basis		text;
	e			record;
	r			record;
	v_difference text;
BEGIN
	PERFORM setseed(v_seed);
	PERFORM set_config('quota.default_plan', 'oracle_small', false);
	PERFORM set_config('quota.test_clock', v_clock::text, false);

	FOR v_step IN 1 .. v_steps LOOP
		-- time: mostly stands or creeps, at times leaps, at times steps back
		v_dice := random();
		v_next := NULL;
		v_sharp := false;
		IF v_dice < 0.40 THEN
			NULL;
		ELSIF v_dice < 0.71 THEN
			v_next := v_clock + random() * interval '4 minutes';
		ELSIF v_dice < 0.80 THEN
			v_next := v_clock + random() * interval '20 hours';
		ELSIF v_dice < 0.82 THEN
			v_next := v_clock + random() * interval '15 days';
		ELSIF v_dice < 0.822 THEN
			v_next := v_clock + random() * interval '500 days';
		ELSIF v_dice < 0.84 THEN
			SELECT min(at) INTO v_next FROM instants WHERE at > v_clock + interval '1 hour';
			v_next := v_next + (random() * 120 - 60)::integer * interval '1 minute';
		ELSIF v_dice < 0.92 THEN
			-- to the very end of a period, bonus or override, or the last
			-- instant before it, to ask just there
			v_sharp := true;
			SELECT x.at, x.nr, x.metric INTO v_next, v_nr, v_metric
			  FROM (SELECT a.period_end, w.nr, a.metric
					  FROM quota.usage_tracking AS a JOIN twins AS w ON w.engine = a.user_id
					UNION ALL
					SELECT b.expires_at, w.nr, b.metric
					  FROM quota.user_bonuses AS b JOIN twins AS w ON w.engine = b.user_id
					UNION ALL
					SELECT o.expires_at, w.nr, o.metric
					  FROM quota.limit_overrides AS o JOIN twins AS w ON w.engine = o.user_id
				   ) AS x (at, nr, metric)
			 WHERE x.at > v_clock + interval '1 microsecond'
			 ORDER BY x.at, x.nr, x.metric LIMIT 1;
			v_next := v_next - (random() < 0.5)::integer * interval '1 microsecond';
		ELSIF v_dice < 0.97 THEN
			-- the same once more, a little earlier
			v_sharp := v_nr IS NOT NULL;
			v_next := v_clock - random() * interval '2 seconds';
		ELSE
			v_next := v_clock - random() * interval '2 hours';
		END IF;
		IF v_next IS NOT NULL THEN
			v_clock := v_next;
			PERFORM set_config('quota.test_clock', v_clock::text, false);
		ELSE
			v_sharp := false;
		END IF;

		v_dice := random();
		IF v_sharp THEN
			v_dice := 0.21 + 0.79 * v_dice;
		ELSE
			v_nr := 1 + floor(random() * 9);
			v_metric := v_metrics[1 + floor(5 * random() ^ 2)];
		END IF;
		SELECT * INTO t FROM twins WHERE nr = v_nr;

		-- what changes their circumstances changes for both
		IF v_dice < 0.10 THEN
			v_amount := v_amounts[1 + floor(random() * 11)];
			v_until := CASE WHEN random() < 0.6 THEN date_trunc('hour', v_clock) + ceil(random() ^ 2 * 300) * interval '1 hour' END;
			v_priority := 10 * (1 + floor(random() * 2));
			v_source := CASE WHEN random() < 0.5 THEN 'paid' ELSE 'promotional' END;
			-- granted unlike any other, so that the id decides nothing
			INSERT INTO quota.user_bonuses (user_id, metric, amount, priority, expires_at, source, reason, granted_at)
			SELECT u, v_metric, v_amount, v_priority, v_until, v_source, 'step ' || v_step,
				   timestamptz '2010-01-01 00:00+00' + hashint4(v_step) * interval '1 microsecond'
			  FROM unnest(ARRAY[t.engine, t.reference]) AS u;
			CONTINUE;
		ELSIF v_dice < 0.15 THEN
			v_limit := CASE WHEN random() < 0.1 THEN NULL WHEN random() < 0.1 THEN 0 ELSE ceil(random() ^ 2 * 40) / 2 END;
			v_period := v_periods[1 + floor(random() * 7)];
			v_until := CASE WHEN random() < 0.9 THEN date_trunc('hour', v_clock) + ceil(random() * 200) * interval '1 hour' END;
			INSERT INTO quota.limit_overrides (user_id, metric, period, limit_amount, expires_at)
			SELECT u, v_metric, v_period, v_limit, v_until FROM unnest(ARRAY[t.engine, t.reference]) AS u
			ON CONFLICT (user_id, metric, (coalesce(period, ''))) DO UPDATE
			   SET limit_amount = excluded.limit_amount, expires_at = excluded.expires_at;
			CONTINUE;
		ELSIF v_dice < 0.17 THEN
			DELETE FROM quota.limit_overrides WHERE user_id IN (t.engine, t.reference) AND metric = v_metric;
			CONTINUE;
		ELSIF v_dice < 0.19 THEN
			v_plan := v_plans[1 + floor(random() * 6)];
			IF random() < 0.15 THEN
				DELETE FROM quota.subscriptions WHERE user_id IN (t.engine, t.reference);
			ELSE
				INSERT INTO quota.subscriptions (user_id, plan, anchor, time_zone)
				SELECT u, v_plan, coalesce(t.anchor, v_clock), coalesce(t.time_zone, 'America/New_York')
				  FROM unnest(ARRAY[t.engine, t.reference]) AS u
				ON CONFLICT (user_id) DO UPDATE SET plan = excluded.plan;
			END IF;
			CONTINUE;
		ELSIF v_dice < 0.20 THEN
			v_plan := v_plans[1 + floor(random() * 5)];
			v_limit := CASE WHEN random() < 0.1 THEN NULL WHEN random() < 0.1 THEN 0 ELSE ceil(random() * 60) / 2 END;
			UPDATE quota.plan_limits SET limit_amount = v_limit WHERE plan = v_plan AND metric = v_metric;
			IF random() < 0.4 THEN
				v_basis := (ARRAY['calendar', 'subscription', 'first_use'])[1 + floor(random() * 3)];
				UPDATE quota.plan_limits SET anchor = v_basis WHERE plan = v_plan AND metric = v_metric;
			END IF;
			CONTINUE;
		ELSIF v_dice < 0.21 THEN
			PERFORM set_config('quota.default_plan',
							   (ARRAY['', 'oracle_small', 'oracle_small', 'oracle_odd', 'oracle_wide', 'oracle_wide',
									  'oracle_open', 'oracle_nowhere'])[1 + floor(random() * 8)], false);
			CONTINUE;
		END IF;

		-- requests
		v_op := CASE WHEN v_dice < 0.35 THEN 'check' WHEN v_dice < 0.41 THEN 'require' ELSE 'consume' END;
		v_amount := v_amounts[1 + floor(random() * 11)];
		v_key := NULL;
		IF v_op <> 'check' AND random() < 0.4 THEN
			-- few keys, so that they come back soon, mostly with the same amount
			v_key := format('key %s-%s', v_step / 500, floor(random() * 10));
			v_amount := CASE WHEN random() < 0.8 THEN 1 + (ascii(right(v_key, 1)) % 3) ELSE v_amount END;
		END IF;
		IF random() < 0.02 THEN
			v_amount := v_faults[1 + floor(random() * 10)];
		ELSIF random() < 0.02 THEN
			v_metric := (ARRAY[NULL, '', 'oracle_nothing', 'ORACLE_CALLS'])[1 + floor(random() * 4)];
		ELSIF random() < 0.01 THEN
			v_key := '';
		ELSIF v_metric = 'oracle_calls' AND random() < 0.1 THEN
			v_metric := 'oracle_call';
		END IF;

		e := pg_temp.ask('quota', v_op, t.engine, v_metric, v_amount, v_key, jsonb_build_object('step', v_step));
		r := pg_temp.ask('quota_reference', v_op, t.reference, v_metric, v_amount, v_key, jsonb_build_object('step', v_step));

		v_difference := NULL;
		IF (e.error, pg_temp.comparable(e.answer)) IS DISTINCT FROM (r.error, pg_temp.comparable(r.answer)) THEN
			v_difference := 'the answers';
		ELSIF (e.answer).event_id IS NOT NULL THEN
			PERFORM FROM quota.usage_events AS x
			  WHERE x.id = (e.answer).event_id AND x.user_id = t.engine AND x.amount = v_amount;
			IF NOT FOUND THEN
				v_difference := 'event_id and the ledger';
			END IF;
			PERFORM FROM (
				SELECT to_jsonb(x) - 'user_id' FROM quota.usage_tracking AS x WHERE x.user_id = t.engine
				EXCEPT
				SELECT to_jsonb(x) - 'user_id' FROM quota.usage_tracking AS x WHERE x.user_id = t.reference) AS d;
			IF FOUND THEN
				v_difference := 'the accounts';
			END IF;
		END IF;
		IF v_step % 250 = 0 THEN
			PERFORM FROM pg_temp.differences(t.engine, t.reference);
			IF FOUND THEN
				v_difference := 'the rows left';
			END IF;
		END IF;
		IF v_difference IS NOT NULL THEN
			RAISE EXCEPTION 'step %: % differ', v_step, v_difference
				USING DETAIL = format(E'seed %s, pair %s, %s of %s %s, key %s, at %s\nengine    %s %s\nreference %s %s\n%s',
									  v_seed, t.nr, v_op, v_amount, v_metric, coalesce(v_key, 'none'), v_clock,
									  e.error, e.answer, r.error, r.answer,
									  (SELECT string_agg(format('%s %s %s', d.side, d.relation, d.trace), E'\n')
										 FROM pg_temp.differences(t.engine, t.reference) AS d));
		END IF;

		PERFORM pg_temp.count(CASE WHEN e.error <> 'QU001' THEN 'error: ' || e.error
								   WHEN v_op = 'require' THEN 'require: ' || coalesce(e.error, 'granted')
								   WHEN (e.answer).already_processed THEN 'consume: replay'
								   ELSE v_op || ': ' || (e.answer).reason END);
		IF e.error IS NULL AND NOT (e.answer).already_processed THEN
			PERFORM pg_temp.count(CASE WHEN (e.answer).retry_after IS NOT NULL THEN 'denied until the period ends'
									   WHEN (e.answer).reason = 'quota_exceeded' THEN 'denied for good'
									   WHEN (e.answer).limit_amount IS NULL THEN 'granted without limit or not in plan'
									   WHEN (e.answer).remaining = 0 THEN 'granted to the last unit'
									   ELSE 'granted or denied otherwise' END);
		END IF;

		IF v_step % 50 = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
END
$walk$;

-- What they left behind is the same ...
SELECT d.* FROM twins, pg_temp.differences(engine, reference) AS d;
SELECT count(*) FROM twins, unnest(ARRAY[engine, reference]) AS u, quota.verify_ledger(u);

-- ... and the walk has been everywhere.
SELECT what, times > 0 AS occurred FROM (
	SELECT what, times FROM tally
	UNION ALL
	SELECT 'rows: bonus split over several', count(*)
	  FROM (SELECT FROM quota.bonus_allocations GROUP BY event_id HAVING count(*) > 1) AS x
	UNION ALL
	SELECT 'rows: period closed', count(*) FROM quota.usage_history JOIN twins ON engine = user_id
	UNION ALL
	SELECT 'rows: period closed that had taken bonuses', count(*)
	  FROM quota.usage_history JOIN twins ON engine = user_id WHERE bonus_used > 0
	UNION ALL
	SELECT 'rows: several windows charged', count(*)
	  FROM quota.usage_events JOIN twins ON engine = user_id WHERE rate_periods IS NOT NULL
	UNION ALL
	SELECT 'rows: first use remembered', count(*)
	  FROM quota.usage_tracking AS a JOIN twins AS t ON t.engine = a.user_id WHERE a.anchor IS NOT NULL
	UNION ALL
	SELECT 'rows: decided ahead of the clock', count(*)
	  FROM (SELECT created_at < max(created_at) OVER (ORDER BY (metadata ->> 'step')::integer) AS back
			  FROM quota.usage_events JOIN twins ON engine = user_id) AS x WHERE back
	) AS x
 ORDER BY what COLLATE "C";

-- Leave nothing behind.
DELETE FROM quota.bonus_allocations WHERE event_id IN
	(SELECT id FROM quota.usage_events, twins WHERE user_id IN (engine, reference));
DELETE FROM quota.usage_events USING twins WHERE user_id IN (engine, reference);
DELETE FROM quota.usage_tracking USING twins WHERE user_id IN (engine, reference);
DELETE FROM quota.usage_history USING twins WHERE user_id IN (engine, reference);
DELETE FROM quota.user_bonuses USING twins WHERE user_id IN (engine, reference);
DELETE FROM quota.quota_audit_log USING twins WHERE user_id IN (engine, reference);
DELETE FROM quota.subscriptions USING twins WHERE user_id IN (engine, reference);
DELETE FROM quota.limit_overrides USING twins WHERE user_id IN (engine, reference);
DELETE FROM quota.plans WHERE plan LIKE 'oracle\_%';
DELETE FROM quota.metrics WHERE metric LIKE 'oracle\_%';
\if :load_reference
	DROP SCHEMA quota_reference CASCADE;
\endif
