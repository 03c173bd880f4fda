-- Several requests in one call: all or nothing over metrics, independent ones in a batch, as much as there is.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('several_a', 'counter'), ('several_b', 'counter'), ('several_c', 'counter'), ('several_free', 'counter'), ('several_soft', 'counter'),
	('several_unlisted', 'counter'), ('several_seats', 'gauge');
INSERT INTO metric_aliases VALUES ('several_z', 'several_a');
INSERT INTO plans (plan) VALUES ('several_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES
	('several_plan', 'several_a', 'month', 10, 'hard', NULL),
	('several_plan', 'several_b', 'month', 5, 'hard', NULL),
	('several_plan', 'several_c', 'month', 100, 'hard', NULL),
	('several_plan', 'several_c', 'minute', 30, 'hard', NULL),
	('several_plan', 'several_free', 'month', NULL, 'hard', NULL),
	('several_plan', 'several_soft', 'month', 10, 'soft', 2),
	('several_plan', 'several_seats', 'lifetime', 3, 'hard', NULL);
SELECT md5('several ann')::uuid AS ann, md5('several ben')::uuid AS ben, md5('several cat')::uuid AS cat,
	md5('several dan')::uuid AS dan, md5('several eve')::uuid AS eve, md5('several fay')::uuid AS fay, md5('several gus')::uuid AS gus \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'several_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus']::uuid[]) AS u;

\set answer 'metric, allowed, reason, trim_scale(granted) AS granted, trim_scale(bonus_used) AS bonus_used, trim_scale(used) AS used, trim_scale(remaining) AS remaining, limit_amount, period'
CREATE FUNCTION pg_temp.used(p_user_id uuid, OUT metric text, OUT period text, OUT used numeric, OUT bonus_used numeric) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT t.metric, t.period, trim_scale(t.used), trim_scale(t.bonus_used) FROM quota.usage_tracking t WHERE t.user_id = p_user_id ORDER BY 1, 2
$$;

-- All or nothing over metrics: consume_quotas ---------------------------------------------------

-- a row for each, in the order of their names; an alias is answered by the metric's own
SELECT :answer, event_id IS NOT NULL AS has_event, already_processed FROM consume_quotas(:'ann', '{"several_c": 7.5, "several_z": 2, "several_free": 100}');
SELECT * FROM pg_temp.used(:'ann');
SELECT metric, kind, trim_scale(amount) AS amount, period, rate_periods, refers_to, metadata FROM usage_events WHERE user_id = :'ann' ORDER BY metric;
SELECT metric, attempted_amount, success, reason, action, a.event_id = e.id AS of_event FROM quota_audit_log a JOIN usage_events e USING (user_id, metric)
	WHERE user_id = :'ann' ORDER BY metric;
-- one has no room: none is charged; it is named, with how long to wait; the others had room
SELECT :answer, binding_user_id = :'ann' AS binds, justify_hours(retry_after) AS retry_after, event_id
	FROM consume_quotas(:'ann', '{"several_a": 1, "several_b": 5.000001, "several_c": 1}');
SELECT :answer, justify_hours(retry_after) AS retry_after FROM consume_quotas(:'ann', '{"several_a": 8.5, "several_b": 5, "several_c": 1}');
SELECT :answer, justify_hours(retry_after) AS retry_after FROM consume_quotas(:'ann', '{"several_a": 9, "several_b": 1, "several_c": 25}');
SELECT * FROM pg_temp.used(:'ann');
SELECT metric, attempted_amount, success, reason, event_id FROM quota_audit_log WHERE user_id = :'ann' AND NOT success ORDER BY metric, attempted_amount, reason;
-- what is not in the plan denies them all
SELECT :answer FROM consume_quotas(:'ann', '{"several_a": 1, "several_unlisted": 1}');
SELECT :answer FROM consume_quotas(md5('several nobody')::uuid, '{"several_a": 1, "several_b": 1}');
-- to the last unit of each
SELECT :answer FROM consume_quotas(:'ann', '{"several_a": 8, "several_b": 5, "several_c": 22.5}');
SELECT :answer FROM consume_quotas(:'ann', '{"several_free": 1, "several_c": 0.000001}');
-- one metric only is what check_and_consume_quota does
SELECT :answer FROM consume_quotas(:'ben', '{"several_a": 3}');
SELECT :answer FROM check_and_consume_quota(:'ben', 'several_a', 3);
-- bonuses, overage, gauges; metadata goes to each
SELECT grant_bonus(:'ben', 'several_a', 4) IS NOT NULL AND grant_bonus(:'ben', 'several_b', 1) IS NOT NULL AS granted;
SELECT :answer, trim_scale(overage) AS overage, trim_scale(cost) AS cost
	FROM consume_quotas(:'ben', '{"several_a": 5, "several_soft": 12.5, "several_seats": 2}', p_metadata => '{"job": 7}');
SELECT metric, metadata FROM usage_events WHERE user_id = :'ben' AND metadata IS NOT NULL ORDER BY metric;
-- a denial takes nothing from bonuses either
SELECT :answer FROM consume_quotas(:'ben', '{"several_a": 3, "several_seats": 2}');
SELECT * FROM pg_temp.used(:'ben');
SELECT metric, amount, used_amount FROM user_bonuses WHERE user_id = :'ben' ORDER BY metric;

-- Its key ---------------------------------------------------------------------------------------

SELECT metric, allowed, already_processed, used, remaining FROM consume_quotas(:'cat', '{"several_a": 1, "several_b": 2}', 'key');
SELECT allowed FROM check_and_consume_quota(:'cat', 'several_a', 1);
SELECT metric, allowed, already_processed, used, remaining FROM consume_quotas(:'cat', '{"several_b": 2.0, "several_z": 1}', 'key');
-- another amount of one: neither applied nor replayed
SELECT metric, allowed, already_processed, used, remaining FROM consume_quotas(:'cat', '{"several_a": 1, "several_b": 3}', 'key');
SELECT reason FROM consume_quotas(:'cat', '{"several_a": 1, "several_b": 3}', 'key') WHERE metric = 'several_b';
-- one more metric: the same
SELECT metric, allowed, already_processed FROM consume_quotas(:'cat', '{"several_a": 1, "several_b": 2, "several_c": 1}', 'key');
-- a key that a single call has used
SELECT allowed FROM check_and_consume_quota(:'cat', 'several_a', 1, 'single');
SELECT metric, allowed, already_processed FROM consume_quotas(:'cat', '{"several_a": 1, "several_b": 1}', 'single');
-- and a single call with the key of this one gets its part of the answer
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'cat', 'several_b', 2, 'key');
-- a denial is not pinned
SELECT metric, allowed, reason FROM consume_quotas(:'cat', '{"several_a": 1, "several_b": 4}', 'denied');
SELECT grant_bonus(:'cat', 'several_b', 1) IS NOT NULL AS granted;
SELECT metric, allowed, already_processed, used, remaining FROM consume_quotas(:'cat', '{"several_a": 1, "several_b": 4}', 'denied');
SELECT * FROM pg_temp.used(:'cat');
SELECT metric, success, reason, count(*) FROM quota_audit_log WHERE user_id = :'cat' AND action = 'consume' AND reason IN ('replay', 'idempotency_conflict')
	AND metric = 'several_b' GROUP BY 1, 2, 3 ORDER BY 1, 3;

-- Independent requests: consume_quota_batch ----------------------------------------------------------

-- in the order of the input, each for itself; a denial stops nobody
SELECT n, :answer FROM consume_quota_batch(ARRAY[:'eve', :'dan', :'dan', :'eve', :'dan']::uuid[], ARRAY['several_b', 'several_z', 'several_b', 'several_b', 'several_free'],
	ARRAY[4, 10, 5.5, 2, 1000]) WITH ORDINALITY AS o (allowed, remaining, limit_amount, bonus_used, already_processed, reason, metric, period, used, bonus_remaining,
		overage, cost, period_start, resets_at, retry_after, event_id, binding_user_id, granted, reservation_id, shortfall, n) ORDER BY n;
SELECT * FROM pg_temp.used(:'dan');
SELECT * FROM pg_temp.used(:'eve');
-- each sees those before it, those of the same subject and metric in their order; 1 where no amounts are given
SELECT metric, allowed, used, remaining FROM consume_quota_batch(array_fill(:'eve'::uuid, ARRAY[3]), ARRAY['several_b', 'several_b', 'several_a']);
SELECT metric, allowed, granted, used, remaining FROM consume_quota_batch(array_fill(:'fay'::uuid, ARRAY[5]), array_fill('several_a'::text, ARRAY[5]), ARRAY[4, 5, 2, 1, 1]);
-- keys: some with, some without; the second of the same key is a replay, one with another amount a conflict
SELECT metric, allowed, already_processed, reason, used FROM consume_quota_batch(array_fill(:'fay'::uuid, ARRAY[6]),
	ARRAY['several_b', 'several_b', 'several_b', 'several_b', 'several_c', 'several_b'], ARRAY[1, 1, 1, 2, 1, 1], ARRAY['k', 'k', NULL, 'k', 'k', 'l']);
SELECT metric, allowed, already_processed, reason, used FROM consume_quota_batch(array_fill(:'fay'::uuid, ARRAY[2]),
	ARRAY['several_b', 'several_c'], ARRAY[1, 1], ARRAY['l', 'k']);
SELECT * FROM pg_temp.used(:'fay');
SELECT metric, success, reason, attempted_amount FROM quota_audit_log WHERE user_id = :'fay' AND reason <> 'ok' ORDER BY 1, 3, 4;
-- nothing to do
SELECT count(*) FROM consume_quota_batch('{}', '{}');
SELECT count(*) FROM consume_quota_batch('{}', '{}', '{}', '{}');
-- named arguments; a hundred at once
SELECT count(*) FILTER (WHERE allowed) AS granted, count(*) FILTER (WHERE NOT allowed) AS denied, min(remaining) FROM consume_quota_batch(
	p_metrics => array_fill('several_c'::text, ARRAY[100]), p_user_ids => array_fill(:'gus'::uuid, ARRAY[100]), p_amounts => array_fill(0.4::numeric, ARRAY[100]));
SELECT * FROM pg_temp.used(:'gus');

-- As much as there is: consume_up_to --------------------------------------------------------------------

SELECT :answer FROM consume_up_to(:'gus', 'several_a', 7);
SELECT :answer, event_id IS NOT NULL AS has_event FROM consume_up_to(:'gus', 'several_z', 7);
-- nothing is left: a denial; the month's end brings some, whatever was asked
SELECT :answer, event_id, justify_hours(retry_after) AS retry_after FROM consume_up_to(:'gus', 'several_a', 7);
SELECT allowed, justify_hours(retry_after) AS retry_after FROM consume_up_to(:'gus', 'several_a', 7000);
SELECT trim_scale(amount) AS amount, trim_scale(requested) AS requested FROM usage_events WHERE user_id = :'gus' AND metric = 'several_a' ORDER BY amount;
SELECT attempted_amount, success, reason FROM quota_audit_log WHERE user_id = :'gus' AND metric = 'several_a' ORDER BY 1, 3;
-- bonuses are there, too; the last millionth
SELECT grant_bonus(:'gus', 'several_a', 2.000001) IS NOT NULL AS granted;
SELECT :answer FROM consume_up_to(:'gus', 'several_a', 2);
SELECT :answer FROM consume_up_to(:'gus', 'several_a', 2);
SELECT :answer FROM consume_up_to(:'gus', 'several_a', 0.000001);
-- several windows: the one with least decides
SELECT :answer, resets_at FROM consume_up_to(:'eve', 'several_c', 95);
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT :answer FROM consume_up_to(:'eve', 'several_c', 25);
SET quota.test_clock = '2026-03-10 12:02:00+00';
SELECT :answer FROM consume_up_to(:'eve', 'several_c', 95);
SET quota.test_clock = '2026-03-10 12:03:00+00';
SELECT :answer FROM consume_up_to(:'eve', 'several_c', 95);
SELECT * FROM pg_temp.used(:'eve') WHERE metric = 'several_c';
-- what is held is not there; what has no limit is; a soft limit has no end
SELECT remaining FROM reserve_quota(:'ann', 'several_seats', 2);
SELECT :answer FROM consume_up_to(:'ann', 'several_seats', 3);
SELECT :answer FROM consume_up_to(:'ann', 'several_free', 999999999999);
SELECT :answer, trim_scale(overage) AS overage, trim_scale(cost) AS cost FROM consume_up_to(:'ann', 'several_soft', 15);
SELECT :answer FROM consume_up_to(:'ann', 'several_unlisted', 15);
-- its key: the same ask, the same answer, also when less was granted, and when there would be more by now
SELECT granted, used, already_processed FROM consume_up_to(:'dan', 'several_b', 9, 'key');
SELECT grant_bonus(:'dan', 'several_b', 10) IS NOT NULL AS granted;
SELECT granted, used, already_processed FROM consume_up_to(:'dan', 'several_b', 9, 'key');
SELECT allowed, reason, granted FROM consume_up_to(:'dan', 'several_b', 10, 'key');
SELECT allowed, reason, granted FROM consume_up_to(:'dan', 'several_b', 5, 'key');
SELECT * FROM pg_temp.used(:'dan') WHERE metric = 'several_b';

-- Rolled back with their transaction
BEGIN;
SELECT count(*) FILTER (WHERE allowed) AS granted FROM consume_quotas(:'gus', '{"several_b": 1, "several_free": 1}');
SELECT count(*) FILTER (WHERE allowed) AS granted FROM consume_quota_batch(ARRAY[:'gus', :'dan']::uuid[], ARRAY['several_b', 'several_free']);
SELECT allowed FROM consume_up_to(:'gus', 'several_b', 1);
ROLLBACK;
SELECT * FROM pg_temp.used(:'gus');

-- What cannot be asked --------------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.sqlstate_of(p_call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SELECT ' || p_call USING md5('several gus')::uuid, md5('several fay')::uuid;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
SELECT count(*) AS before FROM usage_events \gset
SELECT count(*) AS log_before FROM quota_audit_log \gset
SELECT call, pg_temp.sqlstate_of(call) AS sqlstate FROM unnest(ARRAY[
		$$consume_quotas(NULL, '{"several_b": 1}')$$, $$consume_quotas('not a uuid', '{"several_b": 1}')$$,
		$$consume_quotas($1, NULL)$$, $$consume_quotas($1, '{}')$$, $$consume_quotas($1, '[]')$$, $$consume_quotas($1, 'null')$$, $$consume_quotas($1, '1')$$,
		$$consume_quotas($1, '"several_b"')$$, $$consume_quotas($1, '[{"several_b": 1}]')$$, $$consume_quotas($1, '{"several_b": 1')$$,
		$$consume_quotas($1, '{"several_b": null}')$$, $$consume_quotas($1, '{"several_b": "1"}')$$, $$consume_quotas($1, '{"several_b": true}')$$,
		$$consume_quotas($1, '{"several_b": [1]}')$$, $$consume_quotas($1, '{"several_b": {"amount": 1}}')$$,
		$$consume_quotas($1, '{"several_b": 0}')$$, $$consume_quotas($1, '{"several_b": -1}')$$, $$consume_quotas($1, '{"several_a": 1, "several_b": -1}')$$,
		$$consume_quotas($1, '{"several_b": 0.0000001}')$$, $$consume_quotas($1, '{"several_b": 1e18}')$$, $$consume_quotas($1, '{"several_b": 1e1000}')$$,
		$$consume_quotas($1, '{"several_x": 1}')$$, $$consume_quotas($1, '{"several_b": 1, "several_x": 1}')$$, $$consume_quotas($1, '{"": 1}')$$,
		-- the same metric by two names
		$$consume_quotas($1, '{"several_a": 1, "several_z": 1}')$$,
		$$consume_quotas($1, '{"several_b": 1}', '')$$, $$consume_quotas($1, '{"several_b": 1}', NULL, '[]')$$, $$consume_quotas($1, '{"several_b": 1}', NULL, 'null')$$,
		$$consume_quotas($1, '{"several_b": 1}', NULL, jsonb_build_object('a', repeat('x', 65536)))$$,
		$$consume_quota_batch(NULL, ARRAY['several_b'])$$, $$consume_quota_batch(ARRAY[$1], NULL)$$, $$consume_quota_batch(NULL, NULL)$$,
		$$consume_quota_batch(ARRAY[$1], '{}')$$, $$consume_quota_batch('{}', ARRAY['several_b'])$$, $$consume_quota_batch(ARRAY[$1, $2], ARRAY['several_b'])$$,
		$$consume_quota_batch(ARRAY[$1], ARRAY['several_b'], '{}')$$, $$consume_quota_batch(ARRAY[$1], ARRAY['several_b'], ARRAY[1, 2])$$,
		$$consume_quota_batch(ARRAY[$1], ARRAY['several_b'], ARRAY[1], '{}')$$, $$consume_quota_batch(ARRAY[$1], ARRAY['several_b'], ARRAY[1], ARRAY['k', 'l'])$$,
		$$consume_quota_batch(ARRAY[$1, NULL], ARRAY['several_b', 'several_b'])$$, $$consume_quota_batch(ARRAY[$1, $2], ARRAY['several_b', NULL])$$,
		$$consume_quota_batch(ARRAY[$1, $2], ARRAY['several_b', ''])$$, $$consume_quota_batch(ARRAY[$1, $2], ARRAY['several_b', 'several_x'])$$,
		$$consume_quota_batch(ARRAY[$1, $2], ARRAY['several_b', 'several_b'], ARRAY[1, NULL])$$, $$consume_quota_batch(ARRAY[$1, $2], ARRAY['several_b', 'several_b'], ARRAY[1, 0])$$,
		$$consume_quota_batch(ARRAY[$1, $2], ARRAY['several_b', 'several_b'], ARRAY[1, -1])$$, $$consume_quota_batch(ARRAY[$1, $2], ARRAY['several_b', 'several_b'], ARRAY[1, 'NaN'::numeric])$$,
		$$consume_quota_batch(ARRAY[$1, $2], ARRAY['several_b', 'several_b'], ARRAY[1, 1e-7])$$,
		$$consume_quota_batch(ARRAY[$1, $2], ARRAY['several_b', 'several_b'], NULL, ARRAY['k', ''])$$,
		$$consume_quota_batch(ARRAY[[$1], [$2]], ARRAY['several_b', 'several_b'])$$, $$consume_quota_batch(ARRAY[[$1], [$2]], ARRAY[['several_b'], ['several_b']])$$,
		$$consume_up_to(NULL, 'several_b', 1)$$, $$consume_up_to($1, NULL, 1)$$, $$consume_up_to($1, '', 1)$$, $$consume_up_to($1, 'several_x', 1)$$,
		$$consume_up_to($1, 'several_b', NULL)$$, $$consume_up_to($1, 'several_b', 0)$$, $$consume_up_to($1, 'several_b', -1)$$, $$consume_up_to($1, 'several_b', 'NaN')$$,
		$$consume_up_to($1, 'several_b', 'Infinity')$$, $$consume_up_to($1, 'several_b', 1e-7)$$, $$consume_up_to($1, 'several_b', 1e18)$$,
		$$consume_up_to($1, 'several_b', 1, '')$$, $$consume_up_to($1, 'several_b', 1, NULL, '[]')$$])
	WITH ORDINALITY AS u (call, n) ORDER BY n;
SELECT count(*) - :before AS events FROM usage_events;
SELECT count(*) - :log_before AS log FROM quota_audit_log;
BEGIN READ ONLY;
SELECT consume_quotas(:'gus', '{"several_b": 1}');
ROLLBACK;
BEGIN READ ONLY;
SELECT consume_quota_batch(ARRAY[:'gus']::uuid[], ARRAY['several_b']);
ROLLBACK;
BEGIN READ ONLY;
SELECT consume_up_to(:'gus', 'several_b', 1);
ROLLBACK;

-- The books --------------------------------------------------------------------------------------------------------

SELECT v.metric, v.period, counter, recorded, expected
	FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus']::uuid[]) AS u, verify_ledger(u) AS v;
