-- Windows that do not start again at once: gcra and sliding.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('rates_even', 'counter'), ('rates_odd', 'counter'), ('rates_sliding', 'counter'),
	('rates_three', 'counter'), ('rates_bonus', 'counter'), ('rates_closed', 'counter'), ('rates_shadow', 'counter');
INSERT INTO plans (plan) VALUES ('rates_plan'), ('rates_small'), ('rates_large');
INSERT INTO plan_limits (plan, metric, period, limit_amount, algorithm, burst, mode) VALUES
	('rates_plan', 'rates_even', 'minute', 60, 'gcra', 5, 'hard'),
	('rates_plan', 'rates_odd', 'hour', 7, 'gcra', NULL, 'hard'),
	('rates_plan', 'rates_sliding', 'minute', 10, 'sliding', NULL, 'hard'),
	('rates_plan', 'rates_three', 'minute', 4, 'sliding', NULL, 'hard'),
	('rates_plan', 'rates_three', 'hour', 60, 'gcra', 6, 'hard'),
	('rates_plan', 'rates_three', 'month', 100, 'fixed', NULL, 'hard'),
	('rates_plan', 'rates_bonus', 'hour', 5, 'sliding', NULL, 'hard'),
	('rates_plan', 'rates_closed', 'hour', 0, 'sliding', NULL, 'hard'),
	('rates_plan', 'rates_shadow', 'minute', 2, 'sliding', NULL, 'shadow'),
	('rates_plan', 'rates_shadow', 'month', 100, 'fixed', NULL, 'hard'),
	('rates_small', 'rates_even', 'minute', 30, 'gcra', 5, 'hard'),
	('rates_small', 'rates_sliding', 'minute', 4, 'sliding', NULL, 'hard'),
	('rates_large', 'rates_even', 'minute', 120, 'gcra', 8, 'hard'),
	('rates_large', 'rates_sliding', 'minute', 20, 'sliding', NULL, 'hard');
SELECT md5('rates ann')::uuid AS ann, md5('rates ben')::uuid AS ben, md5('rates cat')::uuid AS cat,
	md5('rates dan')::uuid AS dan, md5('rates eve')::uuid AS eve, md5('rates fay')::uuid AS fay,
	md5('rates gus')::uuid AS gus \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'rates_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus']::uuid[]) AS u;

CREATE FUNCTION pg_temp.take(p_user_id uuid, p_metric text, p_amount numeric,
	OUT allowed boolean, OUT remaining numeric, OUT used numeric, OUT reason text, OUT period text,
	OUT retry_after interval, OUT resets_at timestamptz) LANGUAGE sql AS $$
	SELECT o.allowed, trim_scale(o.remaining), trim_scale(o.used), o.reason, o.period, o.retry_after, o.resets_at
		FROM check_and_consume_quota(p_user_id, p_metric, p_amount) AS o
$$;
-- the same, for show
CREATE FUNCTION pg_temp.ask(p_user_id uuid, p_metric text, p_amount numeric,
	OUT allowed boolean, OUT remaining numeric, OUT used numeric, OUT reason text, OUT period text,
	OUT retry_after interval, OUT resets_at timestamptz) LANGUAGE sql AS $$
	SELECT o.allowed, trim_scale(o.remaining), trim_scale(o.used), o.reason, o.period, o.retry_after, o.resets_at
		FROM check_quota(p_user_id, p_metric, p_amount) AS o
$$;

-- gcra: one a second, five at once ---------------------------------------------------

-- a fresh one has room for the burst, and is empty
SELECT * FROM pg_temp.ask(:'ann', 'rates_even', 5);
SELECT * FROM pg_temp.take(:'ann', 'rates_even', 3);
SELECT * FROM pg_temp.take(:'ann', 'rates_even', 2);
SELECT * FROM pg_temp.take(:'ann', 'rates_even', 1);
-- as long as it takes to drain; more than the burst never fits
SELECT * FROM pg_temp.ask(:'ann', 'rates_even', 0.2);
SELECT * FROM pg_temp.ask(:'ann', 'rates_even', 5);
SELECT * FROM pg_temp.ask(:'ann', 'rates_even', 5.000001);
-- a microsecond too early
SET quota.test_clock = '2026-03-10 12:00:00.999999+00';
SELECT * FROM pg_temp.take(:'ann', 'rates_even', 1);
SET quota.test_clock = '2026-03-10 12:00:01+00';
SELECT * FROM pg_temp.take(:'ann', 'rates_even', 1);
SET quota.test_clock = '2026-03-10 12:00:03.5+00';
SELECT * FROM pg_temp.ask(:'ann', 'rates_even', 1);
-- the turn of the minute changes nothing
SET quota.test_clock = '2026-03-10 12:00:59+00';
SELECT * FROM pg_temp.take(:'ann', 'rates_even', 5);
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT * FROM pg_temp.take(:'ann', 'rates_even', 2);
SELECT * FROM pg_temp.take(:'ann', 'rates_even', 1);
-- and long after, it holds no more than the burst
SET quota.test_clock = '2026-03-10 15:00:00+00';
SELECT * FROM pg_temp.take(:'ann', 'rates_even', 6);
SELECT * FROM pg_temp.take(:'ann', 'rates_even', 5);

-- gcra: seven an hour does not come out even ---------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT * FROM pg_temp.take(:'ann', 'rates_odd', 7);
-- 3600 s / 7 = 514.285714 2...
SELECT * FROM pg_temp.take(:'ann', 'rates_odd', 1);
SET quota.test_clock = '2026-03-10 12:08:34.285714+00';
SELECT * FROM pg_temp.take(:'ann', 'rates_odd', 1);
SET quota.test_clock = '2026-03-10 12:08:34.285715+00';
SELECT * FROM pg_temp.take(:'ann', 'rates_odd', 1);

-- sliding: ten a minute ---------------------------------------------------------------

-- counted by the second: the units are free again a minute after the end of theirs
SET quota.test_clock = '2026-03-10 12:00:30+00';
SELECT * FROM pg_temp.ask(:'ben', 'rates_sliding', 10);
SELECT * FROM pg_temp.take(:'ben', 'rates_sliding', 4);
SET quota.test_clock = '2026-03-10 12:00:59.5+00';
SELECT * FROM pg_temp.take(:'ben', 'rates_sliding', 6);
SELECT * FROM pg_temp.take(:'ben', 'rates_sliding', 1);
-- the turn of the minute changes nothing
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT * FROM pg_temp.take(:'ben', 'rates_sliding', 4);
SELECT * FROM pg_temp.ask(:'ben', 'rates_sliding', 5);
SELECT * FROM pg_temp.ask(:'ben', 'rates_sliding', 11);
SET quota.test_clock = '2026-03-10 12:01:30.999998+00';
SELECT * FROM pg_temp.take(:'ben', 'rates_sliding', 1);
SET quota.test_clock = '2026-03-10 12:01:30.999999+00';
SELECT * FROM pg_temp.take(:'ben', 'rates_sliding', 4);
SET quota.test_clock = '2026-03-10 12:02:00+00';
SELECT * FROM pg_temp.ask(:'ben', 'rates_sliding', 7);
-- a limit of 0 is one
SELECT allowed, remaining, reason, retry_after FROM pg_temp.take(:'ben', 'rates_closed', 1);

-- Any traffic, any window ---------------------------------------------------------------

DO $$
DECLARE
	v_at	timestamptz := '2026-03-11 00:00:00+00';
BEGIN
	FOR i IN 1 .. 400 LOOP
		v_at := v_at + (i * i * 7919 + i * 104729) % 6000 * interval '1 millisecond';
		PERFORM set_config('quota.test_clock', v_at::text, false);
		PERFORM check_and_consume_quota(md5('rates cat')::uuid, 'rates_sliding', 1 + i * 31 % 3);
		PERFORM check_and_consume_quota(md5('rates cat')::uuid, 'rates_even', 2 + i * 31 % 3);
	END LOOP;
END
$$;
-- the fullest of all windows of a minute, whenever it ends
SELECT count(*) AS granted, trim_scale(sum(amount)) AS units, max(trim_scale(in_window)) AS fullest
	FROM (SELECT amount, sum(amount) OVER (ORDER BY created_at
			RANGE BETWEEN interval '59.999999 seconds' PRECEDING AND CURRENT ROW) AS in_window
		FROM usage_events WHERE user_id = :'cat' AND metric = 'rates_sliding') AS e;
-- the most that any span of time had beyond its share of one a second
SELECT count(*) FILTER (WHERE a.id = b.id) AS granted,
		trim_scale(max((SELECT sum(amount) FROM usage_events AS e
			WHERE e.user_id = :'cat' AND e.metric = 'rates_even' AND e.created_at BETWEEN a.created_at AND b.created_at)
			- extract(epoch FROM b.created_at - a.created_at))) AS burst
	FROM usage_events AS a JOIN usage_events AS b ON b.created_at >= a.created_at
	WHERE a.user_id = :'cat' AND a.metric = 'rates_even' AND b.user_id = :'cat' AND b.metric = 'rates_even';

-- Three windows ---------------------------------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT * FROM pg_temp.take(:'dan', 'rates_three', 4);
SET quota.test_clock = '2026-03-10 12:00:01+00';
SELECT * FROM pg_temp.take(:'dan', 'rates_three', 1);
-- the bucket of the hour has drained by 60.999999 s / 60
SET quota.test_clock = '2026-03-10 12:01:00.999999+00';
SELECT * FROM pg_temp.take(:'dan', 'rates_three', 2);
-- lacks the hour, lack both of them, fits never
SELECT * FROM pg_temp.take(:'dan', 'rates_three', 2);
SELECT * FROM pg_temp.take(:'dan', 'rates_three', 3);
SELECT * FROM pg_temp.ask(:'dan', 'rates_three', 7);
SET quota.test_clock = '2026-03-10 12:02:00+00';
SELECT * FROM pg_temp.take(:'dan', 'rates_three', 2);
SELECT trim_scale(used) AS used FROM usage_tracking WHERE user_id = :'dan' AND period = 'month';

-- Bonuses extend a sliding allowance --------------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT grant_bonus(:'eve', 'rates_bonus', 3, NULL, 'A') IS NOT NULL AS granted;
SELECT * FROM pg_temp.take(:'eve', 'rates_bonus', 6);
SELECT * FROM pg_temp.take(:'eve', 'rates_bonus', 3);
-- what the bonus paid for is not in the window
SET quota.test_clock = '2026-03-10 13:00:59.999999+00';
SELECT * FROM pg_temp.take(:'eve', 'rates_bonus', 7);

-- one that expires meanwhile is of no help when the first unit is free, only all that follows is
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT grant_bonus(:'gus', 'rates_sliding', 3, '2026-03-10 12:00:30+00', 'A') IS NOT NULL AS granted;
SELECT * FROM pg_temp.take(:'gus', 'rates_sliding', 1);
SET quota.test_clock = '2026-03-10 12:00:10+00';
SELECT * FROM pg_temp.take(:'gus', 'rates_sliding', 9);
SELECT * FROM pg_temp.ask(:'gus', 'rates_sliding', 4);

-- A window that denies in shadow --------------------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT * FROM pg_temp.take(:'eve', 'rates_shadow', 2);
SELECT allowed, reason FROM pg_temp.take(:'eve', 'rates_shadow', 1);
SET quota.test_clock = '2026-03-10 12:01:00.999999+00';
SELECT allowed, reason FROM pg_temp.take(:'eve', 'rates_shadow', 1);

-- Plans that change ---------------------------------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT * FROM pg_temp.take(:'fay', 'rates_sliding', 6);
SELECT * FROM pg_temp.take(:'fay', 'rates_even', 5);
-- what was used stays used; the bucket drains by the new rate since then
SET quota.test_clock = '2026-03-10 12:00:01+00';
SELECT assign_plan(:'fay', 'rates_small');
SELECT * FROM pg_temp.ask(:'fay', 'rates_sliding', 1);
SELECT * FROM pg_temp.ask(:'fay', 'rates_even', 1);
SELECT assign_plan(:'fay', 'rates_large');
SELECT * FROM pg_temp.take(:'fay', 'rates_sliding', 14);
SELECT * FROM pg_temp.take(:'fay', 'rates_even', 5);

SELECT metric, counter FROM verify_ledger() WHERE metric LIKE 'rates%';
