-- Overrides: a limit for one subject that goes before the plan's.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES ('overrides_calls', 'counter'), ('overrides_closed', 'counter'),
	('overrides_free', 'counter'), ('overrides_unlisted', 'counter'), ('overrides_seats', 'gauge'), ('overrides_windows', 'counter');
INSERT INTO metric_aliases VALUES ('overrides_requests', 'overrides_calls');
INSERT INTO plans (plan) VALUES ('overrides_plan'), ('overrides_yearly');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('overrides_plan', 'overrides_calls', 'month', 10),
	('overrides_plan', 'overrides_closed', 'month', 0),
	('overrides_plan', 'overrides_free', 'month', NULL),
	('overrides_plan', 'overrides_seats', 'lifetime', 2),
	('overrides_plan', 'overrides_windows', 'minute', 5),
	('overrides_plan', 'overrides_windows', 'month', 100),
	('overrides_yearly', 'overrides_windows', 'year', 1000),
	('overrides_yearly', 'overrides_windows', 'month', 90);
SELECT md5('overrides ann')::uuid AS ann, md5('overrides ben')::uuid AS ben, md5('overrides cat')::uuid AS cat, md5('overrides dan')::uuid AS dan,
	md5('overrides eve')::uuid AS eve, md5('overrides nobody')::uuid AS nobody \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'overrides_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve']::uuid[]) AS u;

-- Override, then plan, then nothing ------------------------------------------------

SELECT allowed, remaining, limit_amount FROM check_and_consume_quota(:'ann', 'overrides_calls', 8);
SELECT set_limit_override(:'ann', 'overrides_requests', 20, '2026-03-15 00:00+00', 'beta tester');
SELECT allowed, remaining, limit_amount, used, period FROM check_and_consume_quota(:'ann', 'overrides_calls', 7);
-- another subject keeps the plan's
SELECT limit_amount FROM check_quota(:'ben', 'overrides_calls');
-- one for each subject, metric and window: the second replaces the first
SELECT set_limit_override(:'ann', 'overrides_calls', 18, '2026-03-15 00:00+00');
SELECT metric, period, limit_amount, expires_at, reason FROM limit_overrides WHERE user_id = :'ann';
SELECT allowed, remaining, limit_amount FROM check_quota(:'ann', 'overrides_calls');
-- gone at its very instant: the plan's limit is below what was used
SET quota.test_clock = '2026-03-14 23:59:59.999999+00';
SELECT allowed, remaining, limit_amount FROM check_and_consume_quota(:'ann', 'overrides_calls', 1);
SET quota.test_clock = '2026-03-15 00:00:00+00';
SELECT allowed, remaining, limit_amount, used, reason FROM check_quota(:'ann', 'overrides_calls', 1);
SELECT allowed, remaining, limit_amount, used, reason FROM check_and_consume_quota(:'ann', 'overrides_calls', 1);
-- the row is still there, and of no effect until it is set again
SELECT count(*) FROM limit_overrides WHERE user_id = :'ann';
SELECT set_limit_override(:'ann', 'overrides_calls', 17);
SELECT allowed, remaining, limit_amount, used FROM check_and_consume_quota(:'ann', 'overrides_calls', 1);
SET quota.test_clock = '2036-03-01 00:00:00+00';
SELECT allowed, remaining, limit_amount, used FROM check_quota(:'ann', 'overrides_calls', 1);
SET quota.test_clock = '2026-03-15 00:00:00+00';
SELECT clear_limit_override(:'ann', 'overrides_requests', 'beta is over'), clear_limit_override(:'ann', 'overrides_calls');
SELECT allowed, remaining, limit_amount, used FROM check_quota(:'ann', 'overrides_calls', 1);

-- Lower, unlimited, nothing ------------------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT allowed FROM check_and_consume_quota(:'ben', 'overrides_calls', 6);
SELECT set_limit_override(:'ben', 'overrides_calls', 4);
SELECT allowed, remaining, limit_amount, used, reason FROM check_and_consume_quota(:'ben', 'overrides_calls', 1);
SELECT metric, limit_amount, used, remaining, percent_used, severity FROM get_user_quota_status(:'ben') WHERE metric = 'overrides_calls';
SELECT set_limit_override(:'ben', 'overrides_calls', NULL);
SELECT allowed, remaining, limit_amount, used, reason FROM check_and_consume_quota(:'ben', 'overrides_calls', 1000);
SELECT set_limit_override(:'ben', 'overrides_calls', 0);
SELECT allowed, remaining, limit_amount, used, reason FROM check_and_consume_quota(:'ben', 'overrides_calls', 1);
SELECT set_limit_override(:'ben', 'overrides_free', 3), set_limit_override(:'ben', 'overrides_closed', 2.5), set_limit_override(:'ben', 'overrides_seats', 3);
SELECT allowed, remaining, limit_amount, used, reason FROM check_and_consume_quota(:'ben', 'overrides_free', 4);
SELECT allowed, trim_scale(remaining) AS remaining, trim_scale(limit_amount) AS limit_amount, used, reason, period
	FROM check_and_consume_quota(:'ben', 'overrides_closed', 2);
SELECT allowed, remaining, limit_amount, resets_at FROM check_and_consume_quota(:'ben', 'overrides_seats', 3);

-- A metric that the plan does not list, a subject that has no plan ------------------------

SELECT allowed, reason FROM check_quota(:'cat', 'overrides_unlisted');
SELECT set_limit_override(:'cat', 'overrides_unlisted', 5);
SELECT allowed, remaining, limit_amount, period, period_start, resets_at FROM check_and_consume_quota(:'cat', 'overrides_unlisted', 4);
SELECT set_limit_override(:'nobody', 'overrides_calls', 5, p_period => '1 week');
SELECT allowed, remaining, limit_amount, period, period_start, resets_at FROM check_and_consume_quota(:'nobody', 'overrides_calls', 4);
SELECT metric, period, plan, limit_amount, used, remaining FROM get_user_quota_status(:'nobody');
-- when it is gone there is nothing again
SELECT clear_limit_override(:'cat', 'overrides_unlisted');
SELECT allowed, reason, remaining, used, period FROM check_and_consume_quota(:'cat', 'overrides_unlisted', 1);

-- Windows: without a period the longest of the plan, with a period that one ------------------

SELECT set_limit_override(:'dan', 'overrides_windows', 7);
SELECT allowed, remaining, limit_amount, period FROM check_and_consume_quota(:'dan', 'overrides_windows', 5);
SELECT metric, period, limit_amount, used, remaining FROM get_user_quota_status(:'dan') WHERE metric = 'overrides_windows' ORDER BY period;
SELECT set_limit_override(:'dan', 'overrides_windows', 6, p_period => 'minutes');
SELECT allowed, remaining, limit_amount, period FROM check_and_consume_quota(:'dan', 'overrides_windows', 1);
SELECT period, limit_amount, used, remaining FROM get_user_quota_status(:'dan') WHERE metric = 'overrides_windows' ORDER BY period;
-- both for the same window: the one that names it
SELECT set_limit_override(:'dan', 'overrides_windows', 50, p_period => 'month');
SELECT period, limit_amount, used, remaining FROM get_user_quota_status(:'dan') WHERE metric = 'overrides_windows' ORDER BY period;
SELECT period, limit_amount FROM limit_overrides WHERE user_id = :'dan' ORDER BY period NULLS FIRST;
SELECT clear_limit_override(:'dan', 'overrides_windows', p_period => 'month'), clear_limit_override(:'dan', 'overrides_windows', p_period => 'day');
SELECT period, limit_amount, used, remaining FROM get_user_quota_status(:'dan') WHERE metric = 'overrides_windows' ORDER BY period;
-- one that has expired gives way to one that has not
SELECT set_limit_override(:'dan', 'overrides_windows', 60, '2026-03-10 13:00+00', p_period => 'month');
SELECT period, limit_amount FROM get_user_quota_status(:'dan') WHERE metric = 'overrides_windows' ORDER BY period;
SET quota.test_clock = '2026-03-10 13:00:00+00';
SELECT period, limit_amount FROM get_user_quota_status(:'dan') WHERE metric = 'overrides_windows' ORDER BY period;
SET quota.test_clock = '2026-03-10 12:00:00+00';
-- the longest window is the one of the plan in force
SELECT assign_plan(:'dan', 'overrides_yearly');
SELECT period, limit_amount, used, remaining FROM get_user_quota_status(:'dan') WHERE metric = 'overrides_windows' ORDER BY period;

-- A window that the plan does not have ------------------------------------------------------

SELECT allowed, remaining, period FROM check_and_consume_quota(:'eve', 'overrides_calls', 1);
SELECT set_limit_override(:'eve', 'overrides_calls', 3, '2026-03-20 00:00+00', p_period => 'day');
SELECT allowed, remaining, limit_amount, period, used, period_start FROM check_and_consume_quota(:'eve', 'overrides_calls', 2);
SELECT allowed, remaining, limit_amount, period, reason, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'eve', 'overrides_calls', 2);
SELECT amount, period, rate_periods FROM usage_events WHERE user_id = :'eve' ORDER BY amount;
-- a longer one becomes the allowance, which bonuses extend
SELECT set_limit_override(:'eve', 'overrides_calls', 2, p_period => 'year');
SELECT grant_bonus(:'eve', 'overrides_calls', 4) IS NOT NULL AS granted;
SET quota.test_clock = '2026-03-20 00:00:00+00';
SELECT allowed, remaining, limit_amount, period, used, bonus_used, bonus_remaining FROM check_and_consume_quota(:'eve', 'overrides_calls', 4);
SELECT allowed, remaining, limit_amount, period, used, bonus_used, bonus_remaining FROM check_and_consume_quota(:'eve', 'overrides_calls', 3);
SELECT period, used, bonus_used FROM usage_tracking WHERE user_id = :'eve' ORDER BY period;
SELECT amount, period, rate_periods FROM usage_events WHERE user_id = :'eve' ORDER BY amount;

-- Deleting and truncating past the functions counts as well
DELETE FROM limit_overrides WHERE user_id = :'eve' AND period = 'year';
SELECT allowed, limit_amount, period FROM check_quota(:'eve', 'overrides_calls', 1);

SELECT v.metric, counter, recorded, expected FROM verify_ledger() AS v WHERE v.metric LIKE 'overrides%';

-- retry_after looks beyond the end of overrides and bonuses: it is kept to the microsecond -------------------------

INSERT INTO metrics (metric) VALUES ('overrides_wait');
INSERT INTO plans (plan) VALUES ('overrides_month'), ('overrides_day'), ('overrides_rate');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('overrides_month', 'overrides_wait', 'month', 10),
	('overrides_day', 'overrides_wait', 'day', 10),
	('overrides_rate', 'overrides_wait', 'month', 10),
	('overrides_rate', 'overrides_wait', 'minute', 2);

-- What is told, what a microsecond less gives, and what the time itself gives
CREATE FUNCTION pg_temp.kept(p_user uuid, p_amount numeric, OUT retry_after interval, OUT just_before boolean, OUT granted_then boolean) LANGUAGE plpgsql AS $$
DECLARE
	v_now	timestamptz := quota.clock();
BEGIN
	retry_after := (check_quota(p_user, 'overrides_wait', p_amount)).retry_after;
	IF retry_after IS NOT NULL THEN
		PERFORM set_config('quota.test_clock', (v_now + retry_after - interval '1 microsecond')::text, false);
		just_before := (check_quota(p_user, 'overrides_wait', p_amount)).allowed;
		PERFORM set_config('quota.test_clock', (v_now + retry_after)::text, false);
		granted_then := (check_quota(p_user, 'overrides_wait', p_amount)).allowed;
	END IF;
	PERFORM set_config('quota.test_clock', v_now::text, false);
END
$$;
SELECT md5('overrides wait 1')::uuid AS w1, md5('overrides wait 2')::uuid AS w2, md5('overrides wait 3')::uuid AS w3,
	md5('overrides wait 4')::uuid AS w4, md5('overrides wait 5')::uuid AS w5, md5('overrides wait 6')::uuid AS w6 \gset
SET quota.test_clock = '2026-03-10 12:00:00+00';
INSERT INTO subscriptions (user_id, plan) VALUES (:'w1', 'overrides_month'), (:'w2', 'overrides_month'), (:'w3', 'overrides_day'),
	(:'w4', 'overrides_rate'), (:'w5', 'overrides_rate'), (:'w6', 'overrides_month');

-- nothing until 13:00, then the plan's 10
SELECT set_limit_override(:'w1', 'overrides_wait', 0, '2026-03-10 13:00:00+00');
SELECT allowed, reason FROM check_and_consume_quota(:'w1', 'overrides_wait', 1);
SELECT * FROM pg_temp.kept(:'w1', 1);
SELECT * FROM pg_temp.kept(:'w1', 11);
-- 5 until tomorrow, then the plan's 10, long before the month ends
SELECT set_limit_override(:'w2', 'overrides_wait', 5, '2026-03-11 12:00:00+00');
SELECT allowed FROM check_and_consume_quota(:'w2', 'overrides_wait', 1);
SELECT * FROM pg_temp.kept(:'w2', 5);
SELECT * FROM pg_temp.kept(:'w2', 10);
-- 100 until the evening: at midnight there is a new day, but the plan's 10
SELECT set_limit_override(:'w3', 'overrides_wait', 100, '2026-03-10 20:00:00+00');
SELECT allowed FROM check_and_consume_quota(:'w3', 'overrides_wait', 80);
SELECT * FROM pg_temp.kept(:'w3', 50);
-- the bonus that the month needs expires before the minute ends
SELECT grant_bonus(:'w4', 'overrides_wait', 5, '2026-03-10 12:00:20+00') IS NOT NULL;
SET quota.test_clock = '2026-03-10 11:55:00+00';
DO $$ BEGIN FOR i IN 1..5 LOOP
	PERFORM set_config('quota.test_clock', (timestamptz '2026-03-10 11:50:00+00' + i * interval '1 minute')::text, false);
	PERFORM check_and_consume_quota(md5('overrides wait 4')::uuid, 'overrides_wait', 2);
END LOOP; END $$;
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT allowed, bonus_used FROM check_and_consume_quota(:'w4', 'overrides_wait', 2);
SELECT allowed, period FROM check_quota(:'w4', 'overrides_wait', 1);
SELECT * FROM pg_temp.kept(:'w4', 1);
-- an override of a window that the plan does not have, and one after the other
SELECT set_limit_override(:'w5', 'overrides_wait', 1, '2026-03-10 12:00:30+00', p_period => 'hour');
SELECT set_limit_override(:'w5', 'overrides_wait', 0, '2026-03-10 12:30:00+00');
SELECT * FROM pg_temp.kept(:'w5', 2);
SELECT * FROM pg_temp.kept(:'w5', 3);
-- what ends is worse than what comes: never
SELECT set_limit_override(:'w6', 'overrides_wait', 20, '2026-03-20 12:00:00+00');
SELECT allowed FROM check_and_consume_quota(:'w6', 'overrides_wait', 15);
SELECT * FROM pg_temp.kept(:'w6', 12);
SELECT * FROM pg_temp.kept(:'w6', 6);
-- an override that ends when time does
SELECT set_limit_override(:'w6', 'overrides_wait', 5, '294276-12-31 23:00:00+00');
SELECT allowed, retry_after FROM check_and_consume_quota(:'w6', 'overrides_wait', 12);
-- many that end one after the other
SELECT md5('overrides many')::uuid AS many \gset
INSERT INTO subscriptions (user_id, plan) VALUES (:'many', 'overrides_plan');
SELECT count(set_limit_override(:'many', 'overrides_free', 0, timestamptz '2026-03-10 12:00+00' + i * interval '1 day', p_period => i || ' minutes'))
	FROM generate_series(2, 41) AS i;
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT allowed, period, retry_after FROM check_and_consume_quota(:'many', 'overrides_free', 12);
SELECT set_limit_override(:'many', 'overrides_free', 11, '2027-03-10 12:00:00+00', p_period => 'year');
SELECT allowed, period, retry_after FROM check_and_consume_quota(:'many', 'overrides_free', 12);
SELECT set_limit_override(:'many', 'overrides_free', 11, p_period => 'quarter');
SELECT allowed, period, retry_after FROM check_and_consume_quota(:'many', 'overrides_free', 12);
