-- Several windows on one metric: each must have room.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('windows_calls', 'counter'), ('windows_open', 'counter'), ('windows_three', 'counter'),
	('windows_equal', 'counter'), ('windows_closed', 'counter'), ('windows_rates', 'counter'),
	('windows_seats', 'gauge');
INSERT INTO plans (plan) VALUES ('windows_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('windows_plan', 'windows_calls', 'month', 10),
	('windows_plan', 'windows_calls', 'minute', 4),
	-- the allowance is unlimited, the rate is not; and the other way round
	('windows_plan', 'windows_open', 'month', NULL),
	('windows_plan', 'windows_open', 'minute', 4),
	('windows_plan', 'windows_rates', 'month', 6),
	('windows_plan', 'windows_rates', 'minute', NULL),
	('windows_plan', 'windows_three', 'lifetime', 100),
	('windows_plan', 'windows_three', 'day', 20),
	('windows_plan', 'windows_three', '5 minutes', 7),
	-- of the same length: the first by name is the allowance
	('windows_plan', 'windows_equal', '24 hours', 5),
	('windows_plan', 'windows_equal', 'day', 5),
	('windows_plan', 'windows_closed', 'month', 10),
	('windows_plan', 'windows_closed', 'day', 0),
	('windows_plan', 'windows_seats', 'month', 5),
	('windows_plan', 'windows_seats', 'day', 2);
SELECT md5('windows ann')::uuid AS ann, md5('windows ben')::uuid AS ben, md5('windows cat')::uuid AS cat,
	md5('windows dan')::uuid AS dan, md5('windows eve')::uuid AS eve \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'windows_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve']::uuid[]) AS u;

-- The window with the least room binds ----------------------------------------------

SELECT allowed, remaining, limit_amount, period, used, period_start, resets_at FROM check_quota(:'ann', 'windows_calls');
SELECT allowed, remaining, limit_amount, period, used, reason FROM check_and_consume_quota(:'ann', 'windows_calls', 3);
-- the minute denies, and waiting for the next one helps
SELECT allowed, remaining, limit_amount, period, used, reason, period_start, resets_at, justify_hours(retry_after) AS retry_after, bonus_remaining
	FROM check_and_consume_quota(:'ann', 'windows_calls', 2) \gx
-- 5 never fit into a minute, though the month has room
SELECT allowed, remaining, period, reason, retry_after FROM check_and_consume_quota(:'ann', 'windows_calls', 5);
SET quota.test_clock = '2026-03-10 12:00:45+00';
SELECT allowed, remaining, period, retry_after FROM check_quota(:'ann', 'windows_calls', 2);
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT allowed, remaining, limit_amount, period, used FROM check_and_consume_quota(:'ann', 'windows_calls', 4);
SET quota.test_clock = '2026-03-10 12:02:00+00';
-- 3 are left of the month, 4 of the minute
SELECT allowed, remaining, limit_amount, period, used FROM check_quota(:'ann', 'windows_calls');
SELECT allowed, remaining, limit_amount, period, used, reason, justify_hours(retry_after) AS retry_after
	FROM check_and_consume_quota(:'ann', 'windows_calls', 4);
-- of equals the longer window is told
SELECT allowed, remaining, limit_amount, period, used FROM check_and_consume_quota(:'ann', 'windows_calls', 1);
SELECT allowed, remaining, limit_amount, period, used FROM check_and_consume_quota(:'ann', 'windows_calls', 2);
-- both deny now: the one that takes longer is told
SELECT allowed, remaining, limit_amount, period, used, justify_hours(retry_after) AS retry_after
	FROM check_and_consume_quota(:'ann', 'windows_calls', 2);
-- nothing denied was charged to any window
SELECT period, period_start, period_end, used, bonus_used FROM usage_tracking WHERE user_id = :'ann' ORDER BY period;
SELECT period, period_start, used FROM usage_history WHERE user_id = :'ann' ORDER BY period, period_start;
SELECT amount, period, rate_periods FROM usage_events WHERE user_id = :'ann' ORDER BY created_at, amount;
SELECT created_at, attempted_amount, success, reason, plan_limit, current_usage, remaining, period
	FROM quota_audit_log WHERE user_id = :'ann' ORDER BY created_at, attempted_amount, success;

-- A bonus lifts the longest window only --------------------------------------------------

SELECT grant_bonus(:'ann', 'windows_calls', 5) IS NOT NULL AS granted;
SET quota.test_clock = '2026-03-10 12:02:30+00';
-- the month could pay 2 by bonus, the minute has 1
SELECT allowed, remaining, limit_amount, period, used, reason, retry_after, bonus_remaining FROM check_and_consume_quota(:'ann', 'windows_calls', 2);
SELECT allowed, remaining, limit_amount, period, used, reason, bonus_used, bonus_remaining FROM check_and_consume_quota(:'ann', 'windows_calls', 1);
SET quota.test_clock = '2026-03-10 12:03:00+00';
-- the whole amount counts in the minute, bonus or not
SELECT allowed, remaining, limit_amount, period, used, reason, bonus_used, bonus_remaining FROM check_and_consume_quota(:'ann', 'windows_calls', 3);
SELECT allowed, remaining, limit_amount, period, used, reason, bonus_used, bonus_remaining FROM check_and_consume_quota(:'ann', 'windows_calls', 1);
SELECT period, used, bonus_used FROM usage_tracking WHERE user_id = :'ann' ORDER BY period;
SELECT amount, bonus_used, period, rate_periods FROM usage_events WHERE user_id = :'ann' AND bonus_used > 0 ORDER BY created_at, amount;

-- One of the windows unlimited ---------------------------------------------------------------

SELECT allowed, remaining, limit_amount, period, used FROM check_and_consume_quota(:'ben', 'windows_open', 3);
SELECT allowed, remaining, limit_amount, period, used, reason, retry_after FROM check_and_consume_quota(:'ben', 'windows_open', 2);
SELECT allowed, remaining, limit_amount, period, used FROM check_and_consume_quota(:'ben', 'windows_rates', 4);
SELECT allowed, remaining, limit_amount, period, used, reason FROM check_and_consume_quota(:'ben', 'windows_rates', 3);
SELECT grant_bonus(:'ben', 'windows_open', 5) IS NOT NULL AS granted, grant_bonus(:'ben', 'windows_rates', 5) IS NOT NULL AS granted;
-- no bonus helps against the rate, and none is used where the allowance is unlimited
SELECT allowed, remaining, period, reason, bonus_used, bonus_remaining FROM check_and_consume_quota(:'ben', 'windows_open', 2);
SELECT allowed, remaining, period, reason, bonus_used, bonus_remaining FROM check_and_consume_quota(:'ben', 'windows_open', 1);
SELECT allowed, remaining, period, reason, bonus_used, bonus_remaining FROM check_and_consume_quota(:'ben', 'windows_rates', 3);
SELECT metric, period, used, bonus_used FROM usage_tracking WHERE user_id = :'ben' ORDER BY metric, period;

-- Three windows, the longest of them for life -----------------------------------------------------

SELECT allowed, remaining, limit_amount, period FROM check_and_consume_quota(:'cat', 'windows_three', 7);
SELECT allowed, remaining, limit_amount, period, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'cat', 'windows_three', 1);
SET quota.test_clock = '2026-03-10 12:05:00+00';
SELECT allowed, remaining, limit_amount, period FROM check_and_consume_quota(:'cat', 'windows_three', 7);
SET quota.test_clock = '2026-03-10 12:10:00+00';
SELECT allowed, remaining, limit_amount, period FROM check_and_consume_quota(:'cat', 'windows_three', 6);
SELECT allowed, remaining, limit_amount, period, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'cat', 'windows_three', 1);
-- day and five minutes deny alike at 12:10; for 8 no five minutes ever have room
SELECT allowed, remaining, limit_amount, period, retry_after FROM check_quota(:'cat', 'windows_three', 8);
SET quota.test_clock = '2026-03-11 00:00:00+00';
SELECT allowed, remaining, limit_amount, period FROM check_and_consume_quota(:'cat', 'windows_three', 5);
SELECT period, period_start, period_end, used FROM usage_tracking WHERE user_id = :'cat' ORDER BY period;
SELECT period, period_start, period_end, used FROM usage_history WHERE user_id = :'cat' ORDER BY period, period_start;
SELECT amount, period, rate_periods FROM usage_events WHERE user_id = :'cat' ORDER BY created_at;
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Equal length: the first by name is the allowance --------------------------------------------------

SELECT grant_bonus(:'dan', 'windows_equal', 1) IS NOT NULL AS granted;
SELECT allowed, remaining, period, used FROM check_and_consume_quota(:'dan', 'windows_equal', 4);
SELECT allowed, remaining, period, used, reason, bonus_used FROM check_and_consume_quota(:'dan', 'windows_equal', 2);
SELECT allowed, remaining, period, used, reason, bonus_used FROM check_and_consume_quota(:'dan', 'windows_equal', 1);
SELECT period, used, bonus_used FROM usage_tracking WHERE user_id = :'dan' ORDER BY period;
SELECT DISTINCT period, rate_periods FROM usage_events WHERE user_id = :'dan';

-- A rate of 0 closes the metric; levels have no rate ----------------------------------------------------

SELECT allowed, remaining, limit_amount, period, reason, retry_after FROM check_and_consume_quota(:'dan', 'windows_closed', 1);
SELECT allowed, remaining, limit_amount, period FROM check_and_consume_quota(:'eve', 'windows_seats', 2);
SET quota.test_clock = '2026-05-10 12:00:00+00';
SELECT allowed, remaining, limit_amount, period, reason, used, resets_at, retry_after FROM check_and_consume_quota(:'eve', 'windows_seats', 1);
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- A key is found again with several windows, too
SELECT allowed, already_processed, remaining, period, used FROM check_and_consume_quota(:'eve', 'windows_calls', 3, 'k');
SELECT allowed, already_processed, remaining, period, used FROM check_and_consume_quota(:'eve', 'windows_calls', 3, 'k');
SELECT allowed, reason, remaining, period, used FROM check_and_consume_quota(:'eve', 'windows_calls', 2, 'k');
SELECT period, used FROM usage_tracking WHERE user_id = :'eve' AND metric = 'windows_calls' ORDER BY period;

SELECT count(*) FROM verify_ledger() AS v WHERE v.metric LIKE 'windows%';
