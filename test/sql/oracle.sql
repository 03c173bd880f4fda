-- ---------------------------------------------------------------------------
-- The C code against the PL/pgSQL reference
--
-- Twins that differ in nothing but their uuid, and that of their parents, live
-- through the same random life: plans, limits, overrides, bonuses, parents and
-- the clock change for both alike, the same requests go to quota.* for one and
-- to quota_reference.* for the other, and every answer and every row they leave
-- must be the same.
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

\getenv srcdir PG_ABS_SRCDIR
\set twins :srcdir /reference/twins.sql
\set ECHO none
\i :twins
\set ECHO all

CREATE TEMP TABLE tally (what text PRIMARY KEY, times bigint NOT NULL);
CREATE FUNCTION pg_temp.count(p_what text) RETURNS void
	LANGUAGE sql
AS $$
	INSERT INTO tally VALUES (p_what, 1) ON CONFLICT (what) DO UPDATE SET times = tally.times + 1
$$;

-- What both sides have granted or set aside in the same step, by their ids
CREATE TEMP TABLE named (step integer, kind text, nr integer, engine uuid, reference uuid, amount numeric);

-- The walk -----------------------------------------------------------------------

-- Other seeds and lengths: PGOPTIONS='-c oracle.seed=0.7 -c oracle.steps=100000'
DO $walk$
DECLARE
	v_seed		float8 := coalesce(nullif(current_setting('oracle.seed', true), ''), '0.924');
	v_steps		integer := coalesce(nullif(current_setting('oracle.steps', true), ''), '3500');
	v_metrics	text[] := ARRAY['oracle_calls', 'oracle_tokens', 'oracle_seats', 'oracle_sso', 'oracle_other'];
	v_plans		text[] := ARRAY['oracle_small', 'oracle_wide', 'oracle_equal', 'oracle_odd', 'oracle_open',
								'oracle_soft', 'oracle_shadow', 'oracle_team', 'oracle_empty', NULL];
	v_periods	text[] := ARRAY[NULL, NULL, NULL, 'month', 'day', 'hour', 'lifetime'];
	v_amounts	numeric[] := ARRAY[1, 1, 1, 2, 2, 3, 0.2, 0.000001, 2.50, 7, 14];
	v_faults	numeric[] := ARRAY[NULL, 0, -1, 'NaN', 'Infinity', '-Infinity', 0.0000001, 1e18, 1e30, 1.0000000];
	v_ttls		interval[] := ARRAY['1 second', '2 minutes', '10 minutes', '1 hour', '24 hours'];
	v_clock		timestamptz := '2010-12-25 09:00:00+00';
	v_latest	timestamptz := v_clock;
	v_next		timestamptz;
	v_sharp		boolean;
	v_ending	boolean;
	v_nr		integer;
	v_other		integer;
	t			twins;
	u			twins;
	v_dice		float8;
	v_op		text;
	v_metric	text;
	v_others	text[];
	v_amount	numeric;
	v_given		numeric[];
	v_key		text;
	v_ttl		interval;
	v_limit		numeric;
	v_period	text;
	v_until		timestamptz;
	v_priority	integer;
	v_source	text;
	v_plan		text;
	v_basis		text;
	v_mode		text;
	v_named		named;
	e			record;
	r			record;
	v_out		quota.outcome;
	v_difference text;
BEGIN
	PERFORM setseed(v_seed);
	PERFORM set_config('quota.default_plan', 'oracle_small', false);
	PERFORM set_config('quota.test_clock', v_clock::text, false), set_config('oracle.latest', v_clock::text, false);

	FOR v_step IN 1 .. v_steps LOOP
		-- time: mostly stands or creeps, at times leaps, at times steps back
		v_dice := random();
		v_next := NULL;
		v_sharp := false;
		v_ending := false;
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
			-- to the very end of a period, bonus, override, hold or plan, or the
			-- last instant before it, to ask just there
			v_sharp := true;
			SELECT x.at, x.nr, x.metric INTO v_next, v_nr, v_metric
			  FROM (SELECT a.period_end, w.nr, a.metric
					  FROM quota.usage_tracking AS a JOIN twins AS w ON w.engine = a.user_id
					UNION ALL
					SELECT b.expires_at, w.nr, b.metric
					  FROM quota.user_bonuses AS b JOIN twins AS w ON w.engine = b.user_id
					UNION ALL
					SELECT h.expires_at, w.nr, h.metric
					  FROM quota.usage_events AS h JOIN twins AS w ON w.engine = h.user_id
					UNION ALL
					SELECT s.pending_at, w.nr, v_metrics[1]
					  FROM quota.subscriptions AS s JOIN twins AS w ON w.engine = s.user_id
					UNION ALL
					SELECT o.expires_at, w.nr, o.metric
					  FROM quota.limit_overrides AS o JOIN twins AS w ON w.engine = o.user_id
				   ) AS x (at, nr, metric)
			 WHERE x.at > v_clock + interval '1 microsecond'
			 ORDER BY x.at, x.nr, x.metric LIMIT 1;
			-- rather to the end of a period that a reservation of it will see
			SELECT a.period_end, w.nr, a.metric INTO v_until, v_other, v_period
			  FROM quota.usage_events AS h
			  JOIN twins AS w ON w.engine = h.user_id
			  JOIN quota.usage_tracking AS a ON (a.user_id, a.metric, a.period) = (h.user_id, h.metric, h.period)
			 WHERE h.expires_at > a.period_end AND a.period_end > v_clock AND a.held > 0
			 ORDER BY a.period_end, w.nr, a.metric LIMIT 1;
			IF FOUND AND v_step % 2 = 0 THEN
				v_next := v_until + interval '1 minute';
				v_nr := v_other;
				v_metric := v_period;
				v_ending := true;
			END IF;
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
			v_latest := greatest(v_latest, v_clock);
			PERFORM set_config('quota.test_clock', v_clock::text, false), set_config('oracle.latest', v_latest::text, false);
		ELSE
			v_sharp := false;
		END IF;

		v_dice := random();
		IF v_sharp THEN
			v_dice := 0.21 + 0.79 * v_dice;
		ELSE
			v_nr := 1 + floor(random() * 12);
			v_metric := v_metrics[1 + floor(5 * random() ^ 2)];
		END IF;
		SELECT * INTO t FROM twins WHERE nr = v_nr;

		-- what changes their circumstances changes for both
		IF v_dice < 0.08 THEN
			v_amount := v_amounts[1 + floor(random() * 11)];
			v_until := CASE WHEN random() < 0.6 THEN date_trunc('hour', v_clock) + ceil(random() ^ 2 * 300) * interval '1 hour' END;
			v_priority := 10 * (1 + floor(random() * 2));
			v_source := CASE WHEN random() < 0.5 THEN 'paid' ELSE 'promotional' END;
			-- granted unlike any other, so that the id decides nothing
			INSERT INTO quota.user_bonuses (user_id, metric, amount, priority, expires_at, source, reason, granted_at)
			SELECT x, v_metric, v_amount, v_priority, v_until, v_source, 'step ' || v_step,
				   timestamptz '2010-01-01 00:00+00' + hashint4(v_step) * interval '1 microsecond'
			  FROM unnest(ARRAY[t.engine, t.reference]) AS x;
			IF v_step % 2 = 0 THEN
				BEGIN
					v_amount := quota.repay_overage(t.engine, v_metric) - quota_reference.repay_overage(t.reference, v_metric);
				EXCEPTION WHEN SQLSTATE 'QU003' THEN
					v_amount := 0;
				END;
				IF v_amount <> 0 THEN
					RAISE EXCEPTION 'step %: repaid % more', v_step, v_amount USING DETAIL = format('%s %s %s', t.nr, v_metric, v_clock);
				END IF;
			END IF;
			CONTINUE;
		ELSIF v_dice < 0.09 THEN
			-- void, or given away in part
			UPDATE quota.user_bonuses
			   SET voided_at = CASE WHEN v_step % 2 = 0 THEN v_clock ELSE voided_at END,
				   given_amount = CASE WHEN v_step % 2 = 1 THEN given_amount + least(amount - used_amount - held_amount - given_amount, 1)
									   ELSE given_amount END
			 WHERE user_id IN (t.engine, t.reference) AND metric = v_metric AND available
			   AND granted_at = (SELECT max(b.granted_at) FROM quota.user_bonuses AS b
								  WHERE b.user_id = t.engine AND b.metric = v_metric AND b.available);
			CONTINUE;
		ELSIF v_dice < 0.13 THEN
			v_limit := CASE WHEN random() < 0.1 THEN NULL WHEN random() < 0.1 THEN 0 ELSE ceil(random() ^ 2 * 40) / 2 END;
			v_period := v_periods[1 + floor(random() * 7)];
			v_until := CASE WHEN random() < 0.9 THEN date_trunc('hour', v_clock) + ceil(random() * 200) * interval '1 hour' END;
			INSERT INTO quota.limit_overrides (user_id, metric, period, limit_amount, expires_at)
			SELECT x, v_metric, v_period, v_limit, v_until FROM unnest(ARRAY[t.engine, t.reference]) AS x
			ON CONFLICT (user_id, metric, (coalesce(period, ''))) DO UPDATE
			   SET limit_amount = excluded.limit_amount, expires_at = excluded.expires_at;
			CONTINUE;
		ELSIF v_dice < 0.15 THEN
			DELETE FROM quota.limit_overrides WHERE user_id IN (t.engine, t.reference) AND metric = v_metric;
			CONTINUE;
		ELSIF v_dice < 0.17 THEN
			v_plan := v_plans[1 + floor(random() * 10)];
			v_until := v_clock + ceil(random() ^ 2 * 100) * interval '1 hour';
			IF random() < 0.15 THEN
				DELETE FROM quota.subscriptions WHERE user_id IN (t.engine, t.reference);
			ELSIF random() < 0.35 THEN
				UPDATE quota.subscriptions
				   SET pending_plan = coalesce(v_plan, 'oracle_empty'), pending_at = v_until
				 WHERE user_id IN (t.engine, t.reference);
			ELSE
				INSERT INTO quota.subscriptions (user_id, plan, anchor, time_zone)
				SELECT x, v_plan, coalesce(t.anchor, v_clock), coalesce(t.time_zone, 'America/New_York')
				  FROM unnest(ARRAY[t.engine, t.reference]) AS x
				ON CONFLICT (user_id) DO UPDATE SET plan = excluded.plan, pending_plan = NULL, pending_at = NULL;
			END IF;
			CONTINUE;
		ELSIF v_dice < 0.18 THEN
			-- parents have higher numbers, so there is no cycle
			v_other := 10 + floor(random() * 4);
			SELECT * INTO u FROM twins WHERE nr = v_other AND nr > t.nr;
			UPDATE quota.subscriptions SET parent = CASE user_id WHEN t.engine THEN u.engine ELSE u.reference END
			 WHERE user_id IN (t.engine, t.reference);
			CONTINUE;
		ELSIF v_dice < 0.20 THEN
			v_plan := v_plans[1 + floor(random() * 8)];
			v_limit := CASE WHEN random() < 0.1 THEN NULL WHEN random() < 0.1 THEN 0 ELSE ceil(random() * 60) / 2 END;
			UPDATE quota.plan_limits SET limit_amount = v_limit WHERE plan = v_plan AND metric = v_metric;
			IF random() < 0.4 THEN
				v_basis := (ARRAY['calendar', 'subscription', 'first_use'])[1 + floor(random() * 3)];
				UPDATE quota.plan_limits SET anchor = v_basis WHERE plan = v_plan AND metric = v_metric;
			ELSIF random() < 0.6 THEN
				v_mode := (ARRAY['hard', 'soft', 'shadow'])[1 + floor(random() * 3)];
				v_amount := (ARRAY[NULL, 0, 0.5, 1.75, 0.000000000001])[1 + floor(random() * 5)];
				v_limit := CASE WHEN random() < 0.7 THEN ceil(random() * 20) / 4 END;
				UPDATE quota.plan_limits SET mode = v_mode, overage_price = v_amount, spend_cap = v_limit
				 WHERE plan = v_plan AND metric = v_metric AND (v_step % 3 > 0 OR period IN ('minute', 'hour', 'day'));
			END IF;
			CONTINUE;
		ELSIF v_dice < 0.21 THEN
			PERFORM set_config('quota.default_plan',
							   (ARRAY['', 'oracle_small', 'oracle_small', 'oracle_odd', 'oracle_wide', 'oracle_soft',
									  'oracle_open', 'oracle_nowhere'])[1 + floor(random() * 8)], false);
			CONTINUE;
		END IF;

		-- requests
		v_op := CASE WHEN v_dice < 0.28 THEN 'check' WHEN v_dice < 0.31 THEN 'require' WHEN v_dice < 0.50 THEN 'consume'
					 WHEN v_dice < 0.55 THEN 'up_to' WHEN v_dice < 0.59 THEN 'several' WHEN v_dice < 0.62 THEN 'batch'
					 WHEN v_dice < 0.74 THEN 'reserve' WHEN v_dice < 0.83 THEN 'settle' WHEN v_dice < 0.86 THEN 'cancel'
					 WHEN v_dice < 0.93 THEN 'refund' WHEN v_dice < 0.97 THEN 'release' ELSE 'set_gauge' END;
		-- what is undone just when something has ended
		IF v_ending THEN
			v_op := 'settle';
		ELSIF v_sharp AND random() < 0.4 THEN
			v_op := (ARRAY['settle', 'settle', 'refund'])[1 + floor(random() * 3)];
		END IF;
		v_amount := v_amounts[1 + floor(random() * 11)];
		v_key := NULL;
		IF random() < 0.4 THEN
			-- few keys, so that they come back soon, mostly with the same amount
			v_key := format('key %s-%s', v_step / 500, floor(random() * 5));
			v_amount := CASE WHEN random() < 0.8 THEN 1 + (ascii(right(v_key, 1)) % 3) ELSE v_amount END;
		END IF;
		IF v_op IN ('release', 'set_gauge') THEN
			IF random() < 0.9 THEN
				v_metric := 'oracle_seats';
			ELSE
				v_key := NULL;
			END IF;
		END IF;
		v_ttl := v_ttls[1 + floor(random() * 5)];
		v_other := 1 + floor(random() * 12);
		SELECT * INTO u FROM twins WHERE nr = v_other;
		v_others := ARRAY[v_metric, v_metrics[1 + floor(random() * 5)], v_metric];
		v_given := ARRAY[v_amount, v_amounts[1 + floor(random() * 8)], v_amounts[1 + floor(random() * 8)]];
		IF v_op = 'several' THEN
			SELECT array_agg(DISTINCT m) INTO v_others FROM unnest(v_others) AS m;
		END IF;

		-- what settles, cancels and refunds: one of the last, mostly one that fits
		v_named := NULL;
		IF v_op IN ('settle', 'cancel', 'refund') THEN
			SELECT x.* INTO v_named
			  FROM (SELECT * FROM named WHERE (kind = 'reserve') = (v_op <> 'refund') OR random() < 0.03
					 ORDER BY step DESC LIMIT 30) AS x
			 ORDER BY (x.nr = v_nr) DESC, CASE WHEN v_ending THEN -x.step END, random() LIMIT 1;
			IF v_named.step IS NOT NULL THEN
				SELECT * INTO t FROM twins WHERE nr = v_named.nr;
			END IF;
			v_given[1] := CASE WHEN random() < 0.4 THEN NULL
							   WHEN v_op = 'settle' AND random() < 0.15 THEN 0
							   WHEN v_op = 'settle' AND random() < 0.3 THEN v_named.amount + v_amount
							   WHEN random() < 0.5 THEN v_named.amount
							   ELSE v_amount END;
		ELSIF v_op = 'set_gauge' THEN
			v_given[1] := floor(random() * 8);
		END IF;

		IF random() < 0.02 THEN
			v_given[1] := v_faults[1 + floor(random() * 10)];
		ELSIF random() < 0.02 THEN
			v_others[1] := (ARRAY[NULL, '', 'oracle_nothing', 'ORACLE_CALLS'])[1 + floor(random() * 4)];
		ELSIF random() < 0.01 THEN
			v_key := '';
		ELSIF random() < 0.01 THEN
			v_ttl := (ARRAY[NULL, '-1 hours', '0.9 seconds', '24:00:00.000001', '1 month']::interval[])[1 + floor(random() * 5)];
		ELSIF v_metric = 'oracle_calls' AND random() < 0.1 THEN
			v_others[1] := 'oracle_call';
		END IF;
		-- a JSON object has no null keys
		IF v_op = 'several' AND v_others[1] IS NULL THEN
			v_others := v_metrics[1:2];
		END IF;

		e := pg_temp.ask('quota', v_op, ARRAY[t.engine, u.engine, t.engine], v_others, v_given, v_key, v_ttl,
						 v_named.engine, jsonb_build_object('step', v_step));
		r := pg_temp.ask('quota_reference', v_op, ARRAY[t.reference, u.reference, t.reference], v_others, v_given, v_key, v_ttl,
						 v_named.reference, jsonb_build_object('step', v_step));

		v_difference := NULL;
		IF (e.error, pg_temp.comparable(e.answers)) IS DISTINCT FROM (r.error, pg_temp.comparable(r.answers)) THEN
			v_difference := 'the answers';
		ELSIF v_op <> 'check' AND e.error IS NULL THEN
			-- those that anything is likely to move in; all of them further down
			v_until := v_clock - interval '2 days';
			PERFORM FROM pg_temp.family(t.nr) AS w
			  WHERE (SELECT jsonb_agg(x ORDER BY x) FROM pg_temp.periods(w.engine, v_until) AS x)
					IS DISTINCT FROM (SELECT jsonb_agg(x ORDER BY x) FROM pg_temp.periods(w.reference, v_until) AS x);
			IF FOUND THEN
				v_difference := 'the accounts';
			END IF;
		END IF;
		IF v_step % 250 = 0 OR v_difference IS NOT NULL OR current_setting('oracle.slow', true) <> '' THEN
			PERFORM FROM pg_temp.family(t.nr) AS w, pg_temp.differences(w.engine, w.reference);
			IF FOUND THEN
				v_difference := coalesce(v_difference, 'the rows left');
			END IF;
		END IF;
		IF v_difference IS NOT NULL THEN
			RAISE EXCEPTION 'step %: % differ', v_step, v_difference
				USING DETAIL = format(E'seed %s, pair %s, %s of %s %s, key %s, at %s, on %s\nengine    %s %s\nreference %s %s\n%s',
									  v_seed, t.nr, v_op, v_given, v_others, coalesce(v_key, 'none'), v_clock, v_named,
									  e.error, e.answers, r.error, r.answers,
									  (SELECT string_agg(format('%s %s %s %s', w.nr, d.side, d.relation, d.trace), E'\n')
										 FROM pg_temp.family(t.nr) AS w, pg_temp.differences(w.engine, w.reference) AS d));
		END IF;

		IF e.error IS NOT NULL THEN
			PERFORM pg_temp.count(CASE WHEN e.error = 'QU001' THEN 'require: ' ELSE 'error: ' END || e.error);
		END IF;
		FOR i IN 1 .. coalesce(cardinality(e.answers), 0) LOOP
			v_out := e.answers[i];
			PERFORM pg_temp.count(v_op || ': ' || CASE WHEN v_out.already_processed THEN 'replay' ELSE v_out.reason END);
			CONTINUE WHEN v_out.already_processed;
			IF v_out.allowed AND v_out.event_id IS NOT NULL THEN
				INSERT INTO named VALUES (v_step, CASE WHEN v_op = 'reserve' THEN 'reserve' ELSE 'event' END,
										  CASE WHEN v_op = 'batch' AND i = 2 THEN u.nr ELSE t.nr END,
										  v_out.event_id, ((r.answers)[i]).event_id, v_out.granted);
			END IF;
			IF pg_temp.nr(v_out.binding_user_id) <> (CASE WHEN v_op = 'batch' AND i = 2 THEN u.nr ELSE t.nr END) THEN
				PERFORM pg_temp.count('bound by a parent: ' || CASE WHEN v_out.allowed THEN 'granted' ELSE 'denied' END);
			END IF;
			IF v_out.shortfall > 0 THEN
				PERFORM pg_temp.count('settle: shortfall');
			END IF;
			IF v_op IN ('up_to', 'release') AND v_out.allowed AND abs(v_out.granted) < v_given[1] THEN
				PERFORM pg_temp.count(v_op || ': less than asked');
			END IF;
			IF v_op IN ('consume', 'check') THEN
				PERFORM pg_temp.count(CASE WHEN v_out.retry_after IS NOT NULL THEN 'denied for a time'
										   WHEN v_out.reason = 'quota_exceeded' THEN 'denied for good'
										   WHEN v_out.limit_amount IS NULL THEN 'granted without limit or not in plan'
										   WHEN v_out.remaining = 0 THEN 'granted to the last unit'
										   ELSE 'granted or denied otherwise' END);
			END IF;
		END LOOP;

		IF v_step % 50 = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
END
$walk$;

-- What they left behind is the same ...
SELECT w.nr, d.* FROM twins AS w, pg_temp.differences(engine, reference) AS d;
-- (what bonuses have given away, nobody has got)
UPDATE quota.user_bonuses SET given_amount = 0 FROM twins WHERE user_id IN (engine, reference);
SELECT count(*) FROM twins, unnest(ARRAY[engine, reference]) AS u, quota.verify_ledger(u);

-- ... most periods were closed at the same time, by the same limits ...
SELECT count(*) FILTER (WHERE a.closed_at = b.closed_at) > 0.9 * count(*) AS at_the_same_time,
	   count(*) FILTER (WHERE a.closed_at = b.closed_at AND a.limit_amount IS DISTINCT FROM b.limit_amount) AS by_other_limits
  FROM twins AS w
  JOIN quota.usage_history AS a ON a.user_id = w.engine
  JOIN quota.usage_history AS b
	ON b.user_id = w.reference AND (b.metric, b.period, b.period_start) = (a.metric, a.period, a.period_start);

-- ... no hold ends before its accounts expect one to ...
SELECT count(*)
  FROM quota.usage_events AS e
  JOIN quota.usage_tracking AS a ON a.user_id = e.user_id AND a.metric = e.metric
   AND (a.period = e.period OR a.period = ANY (e.rate_periods))
  JOIN twins AS w ON e.user_id IN (w.engine, w.reference)
 WHERE e.expires_at < coalesce(a.holds_expire_at, 'infinity')
   AND NOT EXISTS (SELECT FROM quota.usage_events AS r
					WHERE r.refers_to = e.id AND r.kind IN ('settle', 'cancel', 'expire'));

-- ... what expired let go of all that it held, not before its time ...
SELECT count(*)
  FROM quota.usage_events AS x
  JOIN quota.usage_events AS e ON e.id = x.refers_to
  JOIN twins AS w ON x.user_id IN (w.engine, w.reference)
 WHERE x.kind = 'expire'
   AND (ROW(x.user_id, x.metric, x.period, x.rate_periods, x.amount, x.bonus_used, x.overage, x.cost,
			-x.held, -x.held_bonus, -x.held_overage, -x.held_cost, x.effective_at)
		IS DISTINCT FROM ROW(e.user_id, e.metric, e.period, e.rate_periods, 0, 0, 0, 0,
							 e.held, e.held_bonus, e.held_overage, e.held_cost, e.created_at)
		OR x.created_at < e.expires_at
		OR EXISTS (SELECT FROM (SELECT * FROM quota.bonus_allocations WHERE event_id = e.id) AS a
					 FULL JOIN (SELECT * FROM quota.bonus_allocations WHERE event_id = x.id) AS b USING (bonus_id)
					WHERE ROW(a.held, 0, a.ordinal) IS DISTINCT FROM ROW(-b.held, b.amount, b.ordinal)));

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
	SELECT 'rows: ' || kind, count(*)
	  FROM quota.usage_events JOIN twins ON engine = user_id GROUP BY kind
	UNION ALL
	SELECT 'rows: charged to a parent', count(*)
	  FROM quota.usage_events JOIN twins ON engine = user_id WHERE kind = 'consume' AND refers_to IS NOT NULL
	UNION ALL
	SELECT 'rows: bonus held', count(*)
	  FROM quota.usage_events JOIN twins ON engine = user_id WHERE held_bonus > 0
	UNION ALL
	SELECT 'rows: overage held', count(*)
	  FROM quota.usage_events JOIN twins ON engine = user_id WHERE held_cost > 0
	UNION ALL
	SELECT 'rows: refund of overage', count(*)
	  FROM quota.usage_events JOIN twins ON engine = user_id WHERE kind = 'refund' AND cost < 0
	UNION ALL
	SELECT 'rows: refund into a closed period', count(*)
	  FROM quota.usage_events AS e JOIN twins ON engine = user_id
	 WHERE kind = 'refund' AND EXISTS (SELECT FROM quota.usage_history AS h
		WHERE h.user_id = e.user_id AND h.metric = e.metric AND h.period = e.period
		  AND h.period_start <= e.effective_at AND h.period_end > e.effective_at AND h.closed_at < e.created_at)
	UNION ALL
	SELECT 'rows: settled after the end of the period', count(*)
	  FROM quota.usage_events AS e JOIN twins ON engine = user_id
	 WHERE kind = 'settle' AND EXISTS (SELECT FROM quota.usage_history AS h
		WHERE h.user_id = e.user_id AND h.metric = e.metric AND h.period = e.period
		  AND h.period_start <= e.effective_at AND h.period_end > e.effective_at AND h.period_end <= e.created_at)
	UNION ALL
	SELECT 'rows: given back to a bonus of no use', count(*)
	  FROM quota.bonus_allocations AS x JOIN quota.usage_events AS e ON e.id = x.event_id JOIN twins ON engine = e.user_id
	 WHERE x.expired
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
